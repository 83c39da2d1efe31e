"""Content hashes of weights, tokenizers and files. Light: it reads safetensors headers by itself and loads no torch."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from pathlib import Path
from typing import Any

from sftstudy.errors import StudyError

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""Every file from which a tokenizer and its chat template are read. `generation_config.json` names the closing tokens besides."""

WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL_FILES = (*TOKENIZER_FILES, "config.json", "generation_config.json")

IDLE_SETTINGS = ("transformers_version", "dtype", "torch_dtype")
"""Keys of `config.json`, beside those that begin with `_`, that change no number: the tensors carry their own types."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 over name, type, shape and bytes of all tensors, and the settings they compute with.

    The settings are those of `config.json` (rope_theta, rms_norm_eps, ...) but for IDLE_SETTINGS. Folder, sharding and metadata do
    not enter. Raises StudyError if there are no safetensors or no config, or broken ones.
    """
    tensors: dict[str, str] = {}
    for path in weight_files(folder):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start, header = _header(path, data)
            for name, entry in header.items():
                first, last = (start + offset for offset in entry["data_offsets"])
                if last > len(data):
                    raise StudyError(f"{path}: shorter than its header says; delete the folder and make it again")
                with memoryview(data)[first:last] as view:
                    bytes_hash = hashlib.sha256(view).hexdigest()
                tensors[name] = f"{entry['dtype']} {entry['shape']} {bytes_hash}"
    text = "".join(f"{name} {tensors[name]}\n" for name in sorted(tensors))
    text += "config " + json.dumps(_settings(folder / "config.json"), sort_keys=True) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def num_parameters(folder: Path) -> int:
    """Numbers in all stored tensors; tied weights are stored, and counted, once."""
    total = 0
    for path in weight_files(folder):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            total += sum(math.prod(entry["shape"]) for entry in _header(path, data)[1].values())
    return total


def tokenizer_hash(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 over the tokenizer's files, its chat template and the tokens at which generation stops."""
    found = {name: sha256_of(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    if "tokenizer.json" not in found:
        raise StudyError(f"{folder}: no tokenizer.json; a fast tokenizer is needed")
    text = "".join(f"{name} {value}\n" for name, value in sorted(found.items())) + f"stops {sorted(stop_ids(folder))}\n"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stop_ids(folder: Path) -> set[int]:
    """Token ids at which generation with the model in `folder` stops, as its `generation_config.json` says."""
    path = folder / "generation_config.json"
    value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    return set(value) if isinstance(value, list) else set() if value is None else {int(value)}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers would load: model.safetensors, else the shards of its index; no other copies beside them.

    Raises StudyError if there are none, or a shard is missing.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        raise StudyError(f"{folder}: no {WEIGHTS_FILE} and no {WEIGHTS_INDEX}; weights in another format must be converted first")
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StudyError(f"{index}: not an index of shards; delete the folder and make it again") from None
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise StudyError(f"{folder}: {index.name} names {name}, which is not there; delete the folder and make it again")
    return [folder / name for name in names]


def _settings(path: Path) -> dict[str, Any]:
    """What a config says about the computation, its parts (`text_config`, ...) included."""

    def kept(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: kept(entry) for key, entry in value.items() if key not in IDLE_SETTINGS and not key.startswith("_")}

    try:
        settings: dict[str, Any] = kept(dict(json.loads(path.read_text())))
    except FileNotFoundError:
        raise StudyError(f"{path.parent}: no config.json; delete the folder and make it again") from None
    except (ValueError, TypeError):
        raise StudyError(f"{path}: not a model's config; delete the folder and make it again") from None
    return settings


def _header(path: Path, data: mmap.mmap) -> tuple[int, dict[str, Any]]:
    """Where the tensors start, and name -> dtype, shape, offsets."""
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8:start])
    except ValueError:
        raise StudyError(f"{path}: not a safetensors file; delete the folder and make it again") from None
    header.pop("__metadata__", None)
    return start, header
