"""Readers of published traces: exact times, file order, and a sentence for every malformed row."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from pagesim.config import TraceConfig
from pagesim.errors import TraceError
from pagesim.units import TICKS_PER_SECOND
from pagesim.workload.traces import TraceRows, cache_dir, find_trace, read_trace

MICROSECOND = 10**6
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
MOONCAKE = '{"timestamp": 0, "input_length": 7, "output_length": 5, "hash_ids": [0]}\n'
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def read(folder: Path, name: str, layout: str, **keys: Any) -> TraceRows:
    return read_trace(TraceConfig.model_validate({"path": name, "format": layout} | keys), folder)


def written(folder: Path, text: str, layout: str, **keys: Any) -> TraceRows:
    (folder / "t.csv").write_text(text, newline="")
    return read(folder, "t.csv", layout, **keys)


def ticks(rows: TraceRows) -> list[int]:
    assert rows.arrivals is not None
    return [int(tick) for tick in rows.arrivals]


def test_azure_counts_from_the_first_row_exactly(tmp_path: Path) -> None:
    rows = written(
        tmp_path,
        AZURE
        + "2023-11-16 23:59:59.6805900,374,44\r\n2023-11-17 00:00:00.0000001,1,2\r\n2023-11-17 00:00:00.0000001,3,4",
        "azure",
    )
    assert ticks(rows) == [0, 319_410_100_000, 319_410_100_000]
    assert rows.prompt_tokens.tolist() == [374, 1, 3]
    assert rows.output_tokens.tolist() == [44, 2, 4]


def test_azure_of_2024_has_an_offset_from_utc(tmp_path: Path) -> None:
    rows = written(
        tmp_path,
        AZURE + "2024-05-10 00:00:00.009930+00:00,2,3\n2024-05-10 02:00:01+02:00,4,5\n2024-05-09 23:00:02-01:00,6,7\n",
        "azure",
    )
    assert ticks(rows) == [0, 990_070 * MICROSECOND, 1_990_070 * MICROSECOND]


def test_mooncake_is_in_milliseconds(tmp_path: Path) -> None:
    second = '{"timestamp": 27482, "input_length": 1, "output_length": 2}\n'
    rows = written(tmp_path, MOONCAKE + "\n" + second, "mooncake")
    assert ticks(rows) == [0, 27_482 * 10**9]
    assert (rows.prompt_tokens.tolist(), rows.output_tokens.tolist()) == ([7, 1], [5, 2])


def test_vidur_is_in_seconds_to_the_microsecond(tmp_path: Path) -> None:
    rows = written(tmp_path, VIDUR + "0.0,374,44\n4.314578999999999,396,109\n5,1,1\n1e1,1,1\n", "vidur")
    assert ticks(rows) == [0, 4_314_579 * MICROSECOND, 5 * TICKS_PER_SECOND, 10 * TICKS_PER_SECOND]
    lengths_only = written(tmp_path, "num_prefill_tokens,num_decode_tokens,pd_ratio\n3,4,0.75\n", "vidur")
    assert lengths_only.arrivals is None
    assert lengths_only.prompt_tokens.tolist() == [3]


def test_burstgpt_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    rows = written(
        tmp_path,
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,x,0.1,ChatGPT,472,18,490,Conversation log\n45,x,0.1,GPT-4,1087,230,1317,API log\n",
        "burstgpt",
    )
    assert ticks(rows) == [5 * TICKS_PER_SECOND, 45 * TICKS_PER_SECOND]
    assert rows.prompt_tokens.tolist() == [472, 1087]


def test_lengths_come_from_named_columns_of_any_csv(tmp_path: Path) -> None:
    text = 'id,text,in,out\n1,"a, b\nand ""c""",5,6.0\n2,,7,8\n'
    rows = written(tmp_path, text, "lengths", prompt_column="in", output_column="out")
    assert rows.arrivals is None
    assert (rows.prompt_tokens.tolist(), rows.output_tokens.tolist()) == ([5, 7], [6, 8])


def test_a_byte_order_mark_and_blanks_are_no_part_of_names(tmp_path: Path) -> None:
    rows = written(tmp_path, "\ufeffarrived_at, num_prefill_tokens ,num_decode_tokens\n0, 3 ,4\n\n1,5,6\n\n", "vidur")
    assert rows.prompt_tokens.tolist() == [3, 5]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compressed_files_are_read_too(tmp_path: Path, suffix: str) -> None:
    text = (VIDUR + "".join(f"{index},{index + 1},2\n" for index in range(30_000))).encode()
    half = len(text) // 2
    data = {
        "": text,
        ".gz": gzip.compress(text[:half]) + gzip.compress(text[half:]),
        ".zst": zstandard.compress(text[:half]) + zstandard.compress(text[half:]),
    }[suffix]
    (tmp_path / f"t.csv{suffix}").write_bytes(data)
    rows = read(tmp_path, f"t.csv{suffix}", "vidur")
    assert rows.prompt_tokens.tolist() == list(range(1, 30_001))


def test_limit_reads_no_further(tmp_path: Path) -> None:
    rows = written(tmp_path, VIDUR + "0,1,1\n1,2,2\nrubbish", "vidur", limit=2)
    assert rows.prompt_tokens.tolist() == [1, 2]


def test_rate_scale_divides_times(tmp_path: Path) -> None:
    assert ticks(written(tmp_path, VIDUR + "0,1,1\n1,1,1\n9,1,1\n", "vidur", rate_scale=3.0)) == [
        0,
        333_333_333_333,
        3 * TICKS_PER_SECOND,
    ]
    with pytest.raises(TraceError, match="with rate_scale 1e-07 its last request arrives later than in 106 days"):
        written(tmp_path, VIDUR + "0,1,1\n1,1,1\n9,1,1\n", "vidur", rate_scale=1e-7)


BAD = [
    (
        "azure",
        AZURE + "2023-11-16 18:15:46.68,1\n",
        ":2: GeneratedTokens: is missing: the row has 2 columns, the header 3",
    ),
    ("azure", AZURE + "2023-11-16 18:15:46.68,1,2,3\n", ":2: GeneratedTokens: is followed by 1 columns more than"),
    (
        "azure",
        AZURE + "2023-11-16 18:15:46.68,1,\n",
        ":2: GeneratedTokens: is missing, must be a length in tokens from 1",
    ),
    (
        "azure",
        AZURE + "2023-11-16 18:15:46.68,many,2\n",
        ":2: ContextTokens: is 'many', must be a whole number of tokens",
    ),
    ("azure", AZURE + "2023-11-16 18:15:46.68,0,2\n", ":2: ContextTokens: is 0, must be at least 1 token"),
    ("azure", AZURE + "2023-11-16 18:15:46.68,3,-2\n", ":2: GeneratedTokens: is -2, must be at least 1 token"),
    ("azure", AZURE + "2023-11-16 18:15:46.68,3,2.5\n", ":2: GeneratedTokens: is '2.5', must be a whole number"),
    ("azure", AZURE + "2023-11-16 18:15:46.68,3,1_0\n", ":2: GeneratedTokens: is '1_0', must be a whole number"),
    ("azure", AZURE + "2023-11-16 18:15:46.68,3,²\n", ":2: GeneratedTokens: is '²', must be a whole number"),
    (
        "azure",
        AZURE + "2023-11-16 18:15:46.68,3,99999999999\n",
        ":2: GeneratedTokens: .* must be at most 1000000000 tokens",
    ),
    ("azure", AZURE + "yesterday,3,2\n", ":2: TIMESTAMP: is 'yesterday', must be a date and time such as 2023-11-16"),
    ("azure", AZURE + "2023-02-30 18:15:46.68,3,2\n", ":2: TIMESTAMP: is '2023-02-30 18:15:46.68', must be a date and"),
    ("azure", AZURE + ",3,2\n", ":2: TIMESTAMP: is missing, must be a date and time"),
    (
        "azure",
        AZURE + "2023-11-16 18:15:46.68,3,2\n2023-11-16 18:15:46.67,3,2\n",
        ":3: TIMESTAMP: is '2023-11-16 18:15:46.67', before '2023-11-16 18:15:46.68' above; times must not decrease",
    ),
    (
        "azure",
        AZURE + "2023-11-16 18:15:46.68,3,2\n2024-11-16 18:15:46.67,3,2\n",
        ":3: TIMESTAMP: .* more than 106 days after the first row",
    ),
    ("vidur", VIDUR + "0,1,1\n-1,1,1\n", ":3: arrived_at: is '-1', must be seconds from 0; times are not negative"),
    ("vidur", VIDUR + "0,1,1\nnan,1,1\n", ":3: arrived_at: is 'nan', must be seconds from 0"),
    ("vidur", VIDUR + "0,1,1\n,1,1\n", ":3: arrived_at: is missing, must be seconds from 0"),
    ("vidur", VIDUR + "0,1,1\n1e30,1,1\n", ":3: arrived_at: is '1e30', must be within 106 days of the start"),
    ("vidur", VIDUR + "2,1,1\n1.5,1,1\n", ":3: arrived_at: is '1.5', before '2' above; times must not decrease"),
    ("vidur", VIDUR, ": has a header and no rows"),
    ("vidur", "", ": is empty; a trace of format vidur starts with a header"),
    ("vidur", "a,a\n", ":1: num_prefill_tokens: there is no such column, the header is 'a, a'"),
    (
        "vidur",
        "num_prefill_tokens,num_prefill_tokens,num_decode_tokens\n",
        ":1: num_prefill_tokens: there are 2 columns of this name",
    ),
    ("vidur", AZURE, ":1: num_prefill_tokens: there is no such column, .*; it looks like format: azure"),
    ("vidur", MOONCAKE, ":1: num_prefill_tokens: .*; it looks like JSON lines, such as format: mooncake"),
    ("azure", VIDUR, ":1: TIMESTAMP: there is no such column, .*; it looks like format: vidur"),
    ("azure", BURST, ":1: TIMESTAMP: there is no such column, .*; it looks like format: burstgpt"),
    ("azure", "TIMESTAMP,ContextToken,GeneratedTokens\n", ":1: ContextTokens: .*; did you mean 'ContextToken'"),
    ("burstgpt", BURST + "45,ChatGPT,0,0,0,x\n", ":2: Request tokens: is 0, must be at least 1 token"),
    ("mooncake", "", ": is empty; a trace of format mooncake is a JSON object a line"),
    ("mooncake", "\n\n", ": has no rows"),
    ("mooncake", AZURE, ":1: is no JSON, which format mooncake is made of; it looks like format: azure"),
    ("mooncake", MOONCAKE + MOONCAKE[:20] + "\n", ":2: column 18: is no JSON: Unterminated string$"),
    (
        "mooncake",
        MOONCAKE + "[1]\n",
        ":2: column 1: must be a JSON object with timestamp, input_length and output_length",
    ),
    ("mooncake", MOONCAKE + '{"timestamp": 1, "input_length": 7}\n', ":2: output_length: is missing; the row has"),
    ("mooncake", MOONCAKE.replace("5", "null"), ":1: output_length: is missing, must be a length in tokens from 1"),
    ("mooncake", MOONCAKE.replace("5", "true"), ":1: output_length: is True, must be a whole number"),
    ("mooncake", MOONCAKE.replace("5", "0"), ":1: output_length: is 0, must be at least 1 token"),
    ("mooncake", MOONCAKE.replace("0,", '"0:03",', 1), ":1: timestamp: is '0:03', must be milliseconds from 0"),
    (
        "mooncake",
        '{"id": "trace_0002", "hash_id_scope": "local", "requests": []}\n',
        ":1: timestamp: there is no such key; it looks like agentic conversations, which this version does not read",
    ),
]


@pytest.mark.parametrize(("layout", "text", "message"), BAD, ids=map(str, range(len(BAD))))
def test_a_malformed_trace_names_file_line_and_column(tmp_path: Path, layout: str, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=r"^\S*t\.csv" + message) as caught:
        written(tmp_path, text, layout)
    assert "\n" not in str(caught.value)


def test_lengths_need_columns_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"t.csv:1: prompt: there is no such column.*; did you mean 'prompts'"):
        written(tmp_path, "prompts,output\n1,2\n", "lengths", prompt_column="prompt", output_column="output")


def test_bad_rows_are_skipped_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    text = VIDUR + "0,1,1\n5,0,1\nx,1,1\n3,2,2\n2,9,9\n1\n4,3,3\n"
    rows = written(tmp_path, text, "vidur", on_bad_row="skip")
    assert rows.prompt_tokens.tolist() == [1, 2, 3]
    assert ticks(rows) == [0, 3 * TICKS_PER_SECOND, 4 * TICKS_PER_SECOND]
    assert rows.skipped_rows == 4
    with pytest.raises(TraceError, match=r"t.csv:3: num_prefill_tokens: is 0"):
        written(tmp_path, text, "vidur")


def test_broken_json_is_a_bad_row_too(tmp_path: Path) -> None:
    rows = written(tmp_path, MOONCAKE + "{\n" + MOONCAKE, "mooncake", on_bad_row="skip")
    assert (len(rows), rows.skipped_rows) == (2, 1)


def test_a_trace_of_bad_rows_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none of its 2 rows is well-formed; the first problem: .*t.csv:2: num_pre"):
        written(tmp_path, VIDUR + "0,0,1\n0,0,1\n", "vidur", on_bad_row="skip")


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
@pytest.mark.parametrize(
    ("suffix", "cut", "message"),
    [
        (".gz", slice(0, -20), r"t.csv.gz:\d+: the compressed data ends early, after \d+ lines: the file is truncated"),
        (".zst", slice(0, -20), r"t.csv.zst:\d+: the compressed data ends early, after \d+ lines"),
        (".gz", slice(10, None), r"t.csv.gz:1: the compressed data is damaged: Not a gzipped file"),
        (".zst", slice(10, None), r"t.csv.zst:1: the compressed data is damaged: "),
    ],
)
def test_a_damaged_file_is_never_skipped(
    tmp_path: Path, suffix: str, cut: slice, message: str, on_bad_row: str
) -> None:
    rng = np.random.default_rng(0)
    text = VIDUR + "".join(f"{index},{rng.integers(1, 10**6)},2\n" for index in range(3000))
    compress = gzip.compress if suffix == ".gz" else zstandard.compress
    (tmp_path / f"t.csv{suffix}").write_bytes(compress(text.encode())[cut])
    with pytest.raises(TraceError, match=message):
        read(tmp_path, f"t.csv{suffix}", "vidur", on_bad_row=on_bad_row)


def test_what_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(VIDUR.encode() + b"0,1,\xff\n")
    with pytest.raises(TraceError, match=r"t.csv:2: byte 5: is no UTF-8 text"):
        read(tmp_path, "t.csv", "vidur")
    (tmp_path / "a.csv").write_text(VIDUR)
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.csv", "a.csv")
    with pytest.raises(TraceError, match=r"t.tar.gz:1: "):
        read(tmp_path, "t.tar.gz", "vidur")


def test_a_trace_is_looked_up_beside_the_experiment_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, shared, home = tmp_path / "beside", tmp_path / "shared", tmp_path / "home"
    monkeypatch.setenv("PAGESIM_TRACES", str(shared))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    folders = [cache_dir(), shared, beside]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "t.csv").write_text(VIDUR)
        assert find_trace("t.csv", beside) == folder / "t.csv"
    assert find_trace(str(shared / "t.csv"), beside) == shared / "t.csv"


def test_a_trace_that_is_nowhere_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PAGESIM_TRACES", raising=False)
    (tmp_path / "trace.csv").write_text(VIDUR)
    with pytest.raises(TraceError) as caught:
        find_trace("trase.csv", tmp_path)
    assert str(caught.value) == (
        f"there is no trace 'trase.csv'; did you mean 'trace.csv'?; looked in {tmp_path}, {cache_dir()}; "
        "set PAGESIM_TRACES to the folder that holds your traces"
    )
    monkeypatch.setenv("PAGESIM_TRACES", str(tmp_path / "shared"))
    with pytest.raises(
        TraceError, match=r"looked in \S+, \S+shared, \S+; it is published in the GitHub repository Azure/"
    ):
        find_trace("azure_2023_conv.first40min.csv.gz", tmp_path)
    with pytest.raises(TraceError, match=r"there is no trace '\S+/other.zst'; looked in \S+$"):
        find_trace(str(tmp_path / "other.zst"), tmp_path)
    with pytest.raises(TraceError, match="is a folder; name one file of it"):
        find_trace(".", tmp_path)


# What follows reads published traces, from the folder named by PAGESIM_TRACES.


def test_mooncake_keeps_the_order_of_the_file_among_equal_times(traces_dir: Path) -> None:
    rows = read(traces_dir, "mooncake_conversation_trace.jsonl.gz", "mooncake")
    assert len(rows) == 12_031
    assert len(set(ticks(rows))) == 1_180
    assert (np.diff(ticks(rows)) >= 0).all()
    assert rows.prompt_tokens[:3].tolist() == [6758, 7322, 7236]
    assert rows.output_tokens[:3].tolist() == [500, 490, 794]
    assert ticks(rows)[-1] == 3_536_999 * 10**9
    assert rows.prompt_tokens.mean() == pytest.approx(12_035, abs=0.5)
    assert rows.output_tokens.mean() == pytest.approx(342.6, abs=0.05)


@pytest.mark.parametrize("service", ["conv", "code"])
def test_two_readers_give_the_same_requests(traces_dir: Path, service: str) -> None:
    azure = read(traces_dir, f"azure_2023_{service}.first40min.csv.gz", "azure")
    vidur = read(traces_dir, f"vidur_splitwise_{service}.first40min.csv.gz", "vidur")
    assert np.array_equal(azure.prompt_tokens, vidur.prompt_tokens)
    assert np.array_equal(azure.output_tokens, vidur.output_tokens)
    assert azure.arrivals is not None
    assert vidur.arrivals is not None
    # Azure counts in 100 ns, the other has been rounded to the microsecond
    assert np.abs(azure.arrivals - vidur.arrivals).max() < MICROSECOND
    assert set(vidur.arrivals % MICROSECOND) == {0}


@pytest.mark.parametrize(
    ("name", "count", "prompt", "output", "span"),
    [
        ("azure_2023_conv.first40min.csv.gz", 14_176, 1195, 201.5, 2400.0),
        ("azure_2023_code.first40min.csv.gz", 7_491, 2040, 27.6, 2392.6),
    ],
    ids=["conversation", "code"],
)
def test_azure_has_its_statistics(
    traces_dir: Path, name: str, count: int, prompt: float, output: float, span: float
) -> None:
    rows = read(traces_dir, name, "azure")
    assert len(rows) == count
    assert rows.prompt_tokens.mean() == pytest.approx(prompt, abs=0.5)
    assert rows.output_tokens.mean() == pytest.approx(output, abs=0.05)
    assert ticks(rows)[-1] / TICKS_PER_SECOND == pytest.approx(span, abs=0.05)


def test_failed_requests_of_burstgpt_are_bad_rows(traces_dir: Path) -> None:
    name = "burstgpt_1.first42rows.csv.gz"
    rows = read(traces_dir, name, "burstgpt", on_bad_row="skip")
    assert (len(rows), rows.skipped_rows) == (38, 4)
    with pytest.raises(
        TraceError, match=r"burstgpt_1.first42rows.csv.gz:\d+: Request tokens: is 0, must be at least 1"
    ):
        read(traces_dir, name, "burstgpt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("agentic_coding_blk64.jsonl.gz", "it looks like agentic conversations"),
        ("tracelab_example_rounds.jsonl.gz", ":1: timestamp: is missing; the row has"),
        ("azure_2023_conv.first40min.csv.gz", "it looks like format: azure"),
    ],
)
def test_files_of_other_formats_are_refused(traces_dir: Path, name: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read(traces_dir, name, "mooncake")
