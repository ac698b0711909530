"""The catalog: every number is true, and what is not there is said in one sentence."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pagesim import catalog
from pagesim.catalog import data
from pagesim.catalog.shapes import FAMILIES, Shape, num_parameters
from pagesim.errors import ConfigError
from pagesim.workload.traces import read_trace

GIB = 2**30

PUBLISHED = {  # billions of parameters, as the model's publisher rounds them
    "gpt2": 0.124,
    "gpt2-xl": 1.56,
    "opt-125m": 0.125,
    "opt-1.3b": 1.32,
    "opt-6.7b": 6.7,
    "opt-13b": 12.9,
    "opt-30b": 30.0,
    "opt-66b": 66.0,
    "opt-175b": 175.0,
    "llama-7b": 6.7,
    "llama-13b": 13.0,
    "llama-2-7b": 6.74,
    "llama-2-13b": 13.0,
    "llama-2-70b": 69.0,
    "llama-3-8b": 8.03,
    "llama-3-70b": 70.6,
    "llama-3.1-405b": 406.0,
    "mistral-7b": 7.25,
    "qwen2.5-7b": 7.61,
    "qwen2.5-14b": 14.7,
    "qwen2.5-32b": 32.5,
    "qwen2.5-72b": 72.7,
    "gemma-7b": 8.54,
}


@pytest.mark.parametrize("name", data.load("models"))
def test_number_of_parameters_follows_from_the_shapes(name: str) -> None:
    entry = {key: value for key, value in data.load("models")[name].items() if key != "num_parameters"}
    assert catalog.model(entry).num_parameters == catalog.model(name).num_parameters


@pytest.mark.parametrize(("name", "billions"), PUBLISHED.items())
def test_number_of_parameters_is_the_published_one(name: str, billions: float) -> None:
    assert catalog.model(name).num_parameters == pytest.approx(billions * 1e9, rel=0.01)


def test_size_of_a_slot_of_opt_13b() -> None:
    model = catalog.model("opt-13b")
    assert model.kv_bytes_per_token(2) == 819_200
    assert 12 * GIB // model.kv_bytes_per_token(2) == 15_728
    assert model.kv_bytes_per_token(4) == 1_638_400


def test_slots_of_the_larger_models_of_the_paged_attention_paper() -> None:
    """Kwon et al. 2023, table 1: 21 GB hold 9.7K slots of OPT-66B, 264 GB hold 60.1K of OPT-175B."""
    assert 264 * GIB / catalog.model("opt-175b").kv_bytes_per_token(2) == pytest.approx(60_075, abs=0.5)
    # 21 is rounded: 9.7K slots are 21.3 GiB
    per_token = catalog.model("opt-66b").kv_bytes_per_token(2)
    assert round(9_700 * per_token / GIB) == 21
    assert 21 * GIB // per_token == 9_557


def test_weights_of_the_paged_attention_paper_in_decimal_gigabytes() -> None:
    weights = {name: 2 * catalog.model(name).num_parameters / 1e9 for name in ("opt-13b", "opt-66b", "opt-175b")}
    assert weights == {
        "opt-13b": pytest.approx(26, rel=0.015),
        "opt-66b": pytest.approx(132, rel=0.015),
        "opt-175b": pytest.approx(346, rel=0.015),
    }


def test_grouped_queries_share_keys_and_values() -> None:
    assert catalog.model("llama-3-8b").kv_bytes_per_token(2) == 2 * 32 * 8 * 128 * 2
    assert catalog.model("llama-3-8b").kv_bytes_per_token(2) * 4 == catalog.model("llama-2-7b").kv_bytes_per_token(2)


def test_heads_may_be_wider_than_the_hidden_state() -> None:
    gemma = catalog.model("gemma-7b")
    assert gemma.num_heads * gemma.head_dim == 4096 > gemma.hidden_size
    assert gemma.kv_bytes_per_token(2) == 2 * 28 * 16 * 256 * 2


def test_tensor_parallel_devices_share_kv_heads_or_replicate_one() -> None:
    model = catalog.model("llama-3-70b")
    whole = model.kv_bytes_per_token(2)
    assert [model.kv_bytes_per_token(2, degree) for degree in (1, 2, 8)] == [whole, whole // 2, whole // 8]
    assert model.kv_bytes_per_token(2, 16) == whole // 8


@pytest.mark.parametrize(("name", "degree"), [("opt-13b", 3), ("qwen2.5-7b", 8), ("gpt2-xl", 2), ("opt-13b", 0)])
def test_heads_that_cannot_be_shared_are_refused(name: str, degree: int) -> None:
    with pytest.raises(ConfigError, match=rf"^tensor_parallel: .* of {name}.* is {degree}$"):
        catalog.model(name).kv_bytes_per_token(2, degree)


def test_kv_heads_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must divide the 4 KV heads of qwen2\.5-7b or be a multiple of them, is 7"):
        catalog.model("qwen2.5-7b").kv_bytes_per_token(2, 7)


def test_a_model_inline_needs_no_number_of_parameters() -> None:
    shape = Shape(2, 4, 2, 16, 64, 128, 1000, 512)
    spec = {
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "hidden_size": 64,
        "ffn_size": 128,
        "vocab_size": 1000,
        "max_position": 512,
    }
    model = catalog.model(spec)
    assert (model.name, model.head_dim, model.source) == ("inline", 16, "given inline")
    assert model.num_parameters == num_parameters(shape, FAMILIES["llama"])
    assert model.num_parameters == 2 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 128 + 2 * 64) + 2 * 1000 * 64 + 64
    assert catalog.model(spec | {"num_parameters": 7}).num_parameters == 7


GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "n_positions": 1024}
OPT = {
    "model_type": "opt",
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "hidden_size": 5120,
    "ffn_dim": 20480,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 5120,
    "do_layer_norm_before": True,
}
OPT_350M = OPT | {
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "hidden_size": 1024,
    "ffn_dim": 4096,
    "word_embed_proj_dim": 512,
    "do_layer_norm_before": False,
}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
LLAMA_32_1B = LLAMA | {
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
MISTRAL = LLAMA | {"model_type": "mistral", "vocab_size": 32768, "max_position_embeddings": 32768, "head_dim": None}
QWEN2 = LLAMA | {
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "vocab_size": 152064,
}
QWEN3_8B = LLAMA | {
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "head_dim": 128,
}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GPT2, 124_439_808),
        (GPT2 | {"n_inner": 3072}, 124_439_808),
        (OPT, 12_853_473_280),
        (OPT_350M, 331_196_416),
        (LLAMA, 8_030_261_248),
        (LLAMA_32_1B, 1_235_814_400),
        (MISTRAL, 7_248_023_552),
        (QWEN2, 7_615_616_512),
        (QWEN3_8B, 8_190_735_360),
    ],
    ids=["gpt2", "gpt2-inner", "opt", "opt-350m", "llama", "llama-3.2-1b", "mistral", "qwen2", "qwen3-8b"],
)
def test_a_configuration_file_gives_the_parameters_of_the_published_weights(
    tmp_path: Path, config: dict[str, Any], parameters: int
) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    model = catalog.model(str(folder))
    assert (model.name, model.num_parameters) == ("my-model", parameters)
    assert catalog.model("my-model/config.json", tmp_path).num_parameters == parameters
    assert catalog.model(config).num_parameters == parameters


def test_a_configuration_file_equals_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    read, known = catalog.model(str(tmp_path)), catalog.model("llama-3-8b")
    for field in ("num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size", "ffn_size", "vocab_size"):
        assert getattr(read, field) == getattr(known, field)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("opt-13", "unknown model 'opt-13'; did you mean 'opt-13b'\\?; known: gpt2, "),
        ("./nowhere/config.json", "there is no file .*config.json"),
        ("facebook/opt-13b", "there is no file .*opt-13b; did you mean 'opt-13b'\\?"),
        ({"num_layer": 2}, "model: unknown key 'num_layer'; did you mean 'num_layers'\\?"),
        ({"num_layers": 2, "num_heads": 4, "hidden_size": 8}, "ffn_size, vocab_size, max_position are missing"),
        (LLAMA | {"model_type": "mamba"}, "unknown model_type 'mamba'"),
        (
            {"model_type": "opt", "num_hidden_layers": 3},
            "num_attention_heads, .* missing, which a config.json of opt has",
        ),
        (LLAMA | {"num_hidden_layers": "many"}, "num_layers: must be a whole number of at least 1, is 'many'"),
        (LLAMA | {"num_key_value_heads": 5}, "num_kv_heads: must divide num_heads \\(32\\), is 5"),
        (LLAMA | {"num_attention_heads": 24}, "head_dim: is required"),
        (OPT | {"word_embed_proj_dim": "x"}, "word_embed_proj_dim: must be a whole number"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused(spec: str | dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        catalog.model(spec)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": ', r"config.json:1: column 16: is no JSON"),
        ("[1]", "holds no mapping"),
        (b"\xff\xfe", "no JSON text"),
    ],
)
def test_a_configuration_file_that_is_none_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        catalog.model(str(tmp_path))


DATA_SHEETS = {  # GB of the box, GB/s, dense TFLOP/s, GB/s of the host link each way
    "a100-40gb": (40, 1555, 312, 32),
    "a100-80gb": (80, 2039, 312, 32),
    "h100": (80, 3350, 989.4, 64),
    "h200": (141, 4800, 989.4, 64),
    "l4": (24, 300, 121, 32),
    "rtx-4090": (24, 1008, 165.2, 32),
}


@pytest.mark.parametrize("device", catalog.devices(), ids=lambda device: device.name)
def test_devices_are_as_their_data_sheets_say(device: catalog.DeviceSpec) -> None:
    memory, bandwidth, flops, link = DATA_SHEETS[device.name]
    # a stack of 1 GB of the box is 2**30 bytes, of which error correction takes a part
    assert 0.93 * memory * GIB <= device.memory_bytes <= memory * GIB
    assert device.bandwidth_bytes_per_s == bandwidth * 10**9
    assert device.flops_fp16_per_s == round(flops * 10**12)
    assert device.host_link_bytes_per_s == link * 10**9
    assert device.source


INLINE = {"memory": "16 GiB", "bandwidth": "900 GB/s", "flops_fp16": "125 TFLOP/s", "host_link": 16 * 10**9}


def test_a_device_is_written_inline_or_read_from_a_file(tmp_path: Path) -> None:
    device = catalog.device(INLINE | {"name": "v100"})
    assert device == catalog.DeviceSpec("v100", 16 * GIB, 900 * 10**9, 125 * 10**12, 16 * 10**9, "given inline")
    (tmp_path / "v100.yaml").write_text(json.dumps(INLINE))
    assert catalog.device("v100.yaml", tmp_path) == device
    assert catalog.device(INLINE | {"flops_fp16": 125e12}).flops_fp16_per_s == 125 * 10**12


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a100", "unknown device 'a100'; did you mean 'a100-40gb' or 'a100-80gb'"),
        ({"memory": "16 GiB"}, "bandwidth, flops_fp16, host_link are missing"),
        (INLINE | {"speed": 3}, "unknown key 'speed'; allowed: memory, bandwidth"),
        (INLINE | {"memory": "16 GiBi"}, "device: memory: must be such as 40 GiB, and above 0; is '16 GiBi'"),
        (INLINE | {"memory": 0}, "device: memory: must be such as 40 GiB, and above 0; is 0"),
        (INLINE | {"bandwidth": "-3 GB/s"}, "device: bandwidth: must be such as 1555 GB/s"),
        (INLINE | {"flops_fp16": "125 horses"}, "device: flops_fp16: must be such as 312 TFLOP/s"),
        (INLINE | {"flops_fp16": True}, "device: flops_fp16: must be such as 312 TFLOP/s"),
        (INLINE | {"name": ""}, "device: name: must be a text"),
        ("nowhere.yaml", "there is no file nowhere.yaml"),
    ],
)
def test_a_device_that_cannot_be_had_is_refused(spec: str | dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        catalog.device(spec)


def test_a_device_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match=r"list\.yaml holds no mapping with memory, bandwidth"):
        catalog.device("list.yaml", tmp_path)
    (tmp_path / "broken.yaml").write_text("memory: 3\nbandwidth: [\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml:3: is no YAML"):
        catalog.device("broken.yaml", tmp_path)


def test_everything_listed_names_its_source() -> None:
    assert [model.name for model in catalog.models()] == list(data.load("models"))
    assert all(model.source for model in catalog.models())
    assert all(listing.source and listing.licence and listing.summary for listing in catalog.lengths())
    for trace in catalog.traces():
        assert trace.repository in trace.origin
        assert trace.licence
        assert trace.attribution
        assert len(trace.sha256) == 64


def test_every_table_of_lengths_is_named_and_every_name_has_its_table() -> None:
    named = {catalog.lengths_entry(listing.name).get("table") for listing in catalog.lengths()}
    assert named - {None} == set(data.load("length_tables")) - {"probabilities"}


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'shargpt'; did you mean 'sharegpt'"):
        catalog.lengths_entry("shargpt")


@pytest.mark.parametrize("trace", catalog.traces(), ids=lambda trace: trace.name)
def test_traces_are_the_files_that_the_catalog_describes(traces_dir: Path, trace: catalog.TraceInfo) -> None:
    path = traces_dir / trace.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == trace.sha256
    if trace.format:
        from pagesim.config import TraceConfig

        config = TraceConfig.model_validate({"path": trace.file, "format": trace.format, "on_bad_row": "skip"})
        rows = read_trace(config, traces_dir)
        assert len(rows) + rows.skipped_rows == trace.rows


def test_the_catalog_is_light() -> None:
    code = (
        "import sys; from pagesim import catalog; catalog.models(); catalog.lengths();"
        "print([m for m in ('numpy', 'pandas', 'simpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
