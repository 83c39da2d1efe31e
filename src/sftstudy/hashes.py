"""Content hashes of weights, tokenizers and files. Light: it reads safetensors headers by itself and loads no torch."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterator
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

SMALL_FILES = (*TOKENIZER_FILES, "config.json", "generation_config.json")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 over name, type, shape and bytes of all tensors, in order of their names.

    Folder, sharding and metadata do not enter. Raises StudyError if there are no safetensors, or broken ones.
    """
    tensors: dict[str, str] = {}
    for path in _safetensors(folder):
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
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def num_parameters(folder: Path) -> int:
    """Numbers in all stored tensors; tied weights are stored, and counted, once."""
    total = 0
    for path in _safetensors(folder):
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


def _safetensors(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise StudyError(f"{folder}: no *.safetensors; weights in another format must be converted first")
    return paths


def _header(path: Path, data: mmap.mmap) -> tuple[int, dict[str, Any]]:
    """Where the tensors start, and name -> dtype, shape, offsets."""
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8:start])
    except ValueError:
        raise StudyError(f"{path}: not a safetensors file; delete the folder and make it again") from None
    header.pop("__metadata__", None)
    return start, header


def folder_digest(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of every file in a flat folder, hidden ones left out."""
    return {path.name: sha256_of(path) for path in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
