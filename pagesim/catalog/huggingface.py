"""Shapes out of a Hugging Face ``config.json``: the key families of GPT-2, OPT and Llama."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pagesim.catalog import data
from pagesim.catalog.shapes import FAMILIES, Family
from pagesim.errors import ConfigError
from pagesim.suggestions import nearest

_GPT2: Final = {
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "hidden_size": "n_embd",
    "ffn_size": "n_inner",
    "vocab_size": "vocab_size",
    "max_position": "n_positions",
}
_OPT: Final = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_size": "hidden_size",
    "ffn_size": "ffn_dim",
    "vocab_size": "vocab_size",
    "max_position": "max_position_embeddings",
}
_LLAMA: Final = _OPT | {"ffn_size": "intermediate_size", "num_kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
_KEYS: Final[dict[str, dict[str, str]]] = {"gpt2": _GPT2, "opt": _OPT}
_MAY_BE_ABSENT: Final = ("num_kv_heads", "head_dim")


def read(path: Path) -> Mapping[str, Any]:
    """Return the content of a config.json, or of the one in a folder. Raises ConfigError."""
    file = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = nearest(path.name.lower(), data.load("models"))
        raise ConfigError(
            f"model: there is no file {file}{hint}; give a config.json, its folder, or a name of the catalog"
        ) from None
    except OSError as error:
        raise ConfigError(f"model: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"model: {file} is no JSON text") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: column {error.colno}: is no JSON: {error.msg}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"model: {file} holds no mapping; it should be a model's config.json")
    return content


def sizes(config: Mapping[str, Any], what: str) -> tuple[dict[str, Any], Family]:
    """Return the fields of ``ModelSpec`` that a configuration gives, unchecked, and its architecture.

    Raises ConfigError for an architecture that is not known and for missing keys.
    """
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise ConfigError(f"{what}: {data.unknown('model_type', model_type, FAMILIES)}")
    keys = _KEYS.get(model_type, _LLAMA)
    found = {field: config[key] for field, key in keys.items() if config.get(key) is not None}
    if model_type == "gpt2" and "ffn_size" not in found and isinstance(found.get("hidden_size"), int):
        found["ffn_size"] = 4 * found["hidden_size"]
    missing = [key for field, key in keys.items() if field not in found and field not in _MAY_BE_ABSENT]
    if missing:
        raise ConfigError(f"{what}: {', '.join(missing)} missing, which a config.json of {model_type} has")
    return found, _variant(FAMILIES[model_type], model_type, config, what)


def _variant(family: Family, model_type: str, config: Mapping[str, Any], what: str) -> Family:
    """Return the architecture with what its configuration may change."""
    changes: dict[str, Any] = {"is_tied": bool(config.get("tie_word_embeddings", family.is_tied))}
    if model_type == "llama":
        has_bias = bool(config.get("attention_bias", False))
        changes |= {"has_qkv_bias": has_bias, "has_output_bias": has_bias}
        changes["has_ffn_bias"] = bool(config.get("mlp_bias", False))
    if model_type == "opt":
        # the 350M model, whose embeddings are narrower, normalises after each part and not at the end
        width = config.get("word_embed_proj_dim")
        changes["embedding_size"] = None if width is None else data.whole(what, "word_embed_proj_dim", width)
        changes["has_final_norm"] = bool(config.get("do_layer_norm_before", True))
    return dataclasses.replace(family, **changes)
