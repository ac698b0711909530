"""Models: named ones, written inline, or read from a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pagesim.catalog import data, huggingface
from pagesim.catalog.shapes import FAMILIES, Family, Shape, num_parameters
from pagesim.errors import ConfigError

_REQUIRED: Final = ("num_layers", "num_heads", "hidden_size", "ffn_size", "vocab_size", "max_position")
_OPTIONAL: Final = ("num_kv_heads", "head_dim", "num_parameters", "family", "name", "source")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the simulator needs to know of a decoder-only transformer.

    Attributes:
        name: for people.
        num_layers: transformer layers; all of them attend to the whole context.
        num_heads: query heads of a layer; num_kv_heads: key and value heads; head_dim: elements of one.
        hidden_size: width of the residual stream; ffn_size: of the feed-forward part.
        vocab_size: rows of the token embedding.
        num_parameters: all of them, each tensor counted once.
        max_position: the longest context, in tokens, that the model was made for.
        source: where the numbers come from.
    """

    name: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    ffn_size: int
    vocab_size: int
    num_parameters: int
    max_position: int
    source: str

    def kv_bytes_per_token(self, dtype_bytes: int, tensor_parallel: int = 1) -> int:
        """Return the bytes of one token's keys and values in all layers, on each device.

        ``2 x num_layers x num_kv_heads x head_dim x dtype_bytes``, divided among the devices by KV heads.
        With more devices than KV heads each device holds one whole head, so heads are replicated.

        Raises ConfigError where heads cannot be divided among the devices.
        """
        if tensor_parallel < 1 or self.num_heads % tensor_parallel:
            raise ConfigError(
                f"tensor_parallel: must divide the {self.num_heads} heads of {self.name}, is {tensor_parallel}"
            )
        if self.num_kv_heads % tensor_parallel and tensor_parallel % self.num_kv_heads:
            raise ConfigError(
                f"tensor_parallel: must divide the {self.num_kv_heads} KV heads of {self.name} "
                f"or be a multiple of them, is {tensor_parallel}"
            )
        heads = max(1, self.num_kv_heads // tensor_parallel)
        return 2 * self.num_layers * heads * self.head_dim * dtype_bytes


def model(spec: str | Mapping[str, Any], base_dir: Path | None = None) -> ModelSpec:
    """Return a model.

    Args:
        spec: a name of the catalog; the path of a Hugging Face config.json or of its folder; or a mapping,
            with the fields of ``ModelSpec`` (``num_parameters`` is computed where it is absent) or with
            the keys of a config.json.
        base_dir: what a relative path starts from; the current folder by default.

    Raises ConfigError for an unknown name (with the nearest), a missing file, and values that make no model.
    """
    if isinstance(spec, Mapping):
        if "model_type" in spec:
            return _from_config(spec, "model", str(spec.get("_name_or_path") or spec["model_type"]), "inline")
        return _from_mapping(spec, "model", "inline")
    if _is_path(spec):
        path = (base_dir or Path()) / Path(spec).expanduser()
        config = huggingface.read(path)
        folder = path if path.is_dir() else path.parent
        return _from_config(config, str(spec), folder.resolve().name or "model", str(spec))
    return _from_mapping(data.entry("models", "model", spec), f"model {spec}", spec)


def models() -> list[ModelSpec]:
    """Return all models of the catalog."""
    return [model(name) for name in data.load("models")]


def _is_path(spec: str) -> bool:
    return spec.endswith(".json") or "/" in spec or "\\" in spec or spec.startswith((".", "~"))


def _from_mapping(values: Mapping[str, Any], what: str, name: str) -> ModelSpec:
    data.check_keys(what, values, _REQUIRED, _OPTIONAL)
    family = data.text(what, "family", values.get("family", "llama"))
    if family not in FAMILIES:
        raise ConfigError(f"{what}: {data.unknown('family', family, FAMILIES)}")
    sizes = {key: value for key, value in values.items() if key not in ("family", "name", "source")}
    parameters = sizes.pop("num_parameters", None)
    return _spec(
        what,
        sizes,
        FAMILIES[family],
        parameters,
        name=data.text(what, "name", values.get("name", name)),
        source=data.text(what, "source", values.get("source", "given inline")),
    )


def _from_config(config: Mapping[str, Any], what: str, name: str, source: str) -> ModelSpec:
    sizes, family = huggingface.sizes(config, what)
    return _spec(what, sizes, family, None, name=name, source=source)


def _spec(what: str, sizes: Mapping[str, Any], family: Family, parameters: Any, *, name: str, source: str) -> ModelSpec:
    known = {key: data.whole(what, key, value) for key, value in sizes.items()}
    known.setdefault("num_kv_heads", known["num_heads"])
    if known["num_heads"] % known["num_kv_heads"]:
        raise ConfigError(
            f"{what}: num_kv_heads: must divide num_heads ({known['num_heads']}), is {known['num_kv_heads']}"
        )
    if "head_dim" not in known:
        if known["hidden_size"] % known["num_heads"]:
            raise ConfigError(
                f"{what}: head_dim: is required where num_heads ({known['num_heads']}) does not divide "
                f"hidden_size ({known['hidden_size']})"
            )
        known["head_dim"] = known["hidden_size"] // known["num_heads"]
    if parameters is None:
        parameters = num_parameters(Shape(**known), family)
    return ModelSpec(name=name, source=source, num_parameters=data.whole(what, "num_parameters", parameters), **known)
