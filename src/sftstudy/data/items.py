"""Reads the items of a benchmark as texts, to compare training data with. With a mirror of the hub, no network is used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sftstudy.config import HubSplit, LocalFile, Location
from sftstudy.data.files import read_rows
from sftstudy.errors import StudyError
from sftstudy.locate import name_of
from sftstudy.paths import Layout
from sftstudy.spec import ItemPlaces

_ROWS_FILE = re.compile(r"\.(parquet|arrow|jsonl?(\.gz)?)$")


@dataclass(frozen=True)
class Item:
    """An item's texts: every string in its row, such as question, options and answer. `origin` is its file and row."""

    texts: list[str]
    origin: str


def read_items(places: ItemPlaces, *, layout: Layout) -> list[Item]:
    """All items of a benchmark, in the order of its files. Raises StudyError for what is missing or cannot be read.

    A hub split without a config stands for this split of all configs that have it.
    """
    items = []
    for place in places.uses:
        for origin, row in _rows(place, places.mirror, layout):
            if places.question_ids is None or row.get("question_id") in places.question_ids:
                items.append(Item(list(_strings(row)), origin))
    if not items:
        raise StudyError(f"{', '.join(map(name_of, places.uses))}: no items")
    return items


def mirror_files(folder: Path, split: HubSplit) -> list[Path]:
    """Files of a split in a local copy of a data set repository, sorted. Raises StudyError if there are none.

    They are those that README.md's header lists under `configs:`, else those with the split in file's or folder's name.
    """
    listed = _listed_files(folder, split)
    if listed is None:
        within = folder / split.config if split.config and (folder / split.config).is_dir() else folder
        word = re.compile(rf"(^|[^a-z0-9]){re.escape(split.split)}([^a-z0-9]|$)")
        files = [path for path in within.rglob("*") if _ROWS_FILE.search(path.name)]
        listed = [path for path in files if word.search(path.relative_to(within).as_posix())]
    if not listed:
        wanted = f"config {split.config!r}, split {split.split!r}" if split.config else f"split {split.split!r}"
        raise StudyError(f"{folder}: has no files of {wanted}; correct `uses` or `mirror` in benchmarks.yaml")
    return sorted(listed)


def _rows(place: Location, mirror: str | None, layout: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(place, HubSplit):
        yield from read_rows(place, layout=layout)
    elif mirror is not None:
        for path in mirror_files(Path(mirror) / place.hub, place):
            yield from read_rows(LocalFile(path=str(path)), layout=layout)
    else:
        for config in [place.config] if place.config else _hub_configs(place):
            yield from read_rows(place.model_copy(update={"config": config}), layout=layout)


def _hub_configs(split: HubSplit) -> list[str]:
    from datasets import get_dataset_config_names, get_dataset_split_names

    try:
        names: list[str] = get_dataset_config_names(split.hub, revision=split.revision)
        return [name for name in names if split.split in get_dataset_split_names(split.hub, name, revision=split.revision)]
    except Exception as error:  # as in read_rows: the library raises dozens of kinds, all of which mean that nothing is to be had
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise StudyError(f"{name_of(split)}: {first}; check name and revision, or give the suite a `mirror`") from None


def _listed_files(folder: Path, split: HubSplit) -> list[Path] | None:
    """Files of a split by the list in README.md's header; None if there is no such list."""
    readme = folder / "README.md"
    header = re.match(r"---\n(.*?)\n---\s", readme.read_text(), re.DOTALL) if readme.is_file() else None
    try:
        configs = (yaml.safe_load(header[1]) or {}).get("configs") if header else None
    except yaml.YAMLError as error:
        raise StudyError(f"{readme}: its header is not YAML: {' '.join(str(error).split())}") from None
    patterns: list[str] = []
    try:
        for entry in configs or []:
            for files in entry["data_files"]:
                if split.config in (None, entry["config_name"]) and files["split"] == split.split:
                    patterns += [files["path"]] if isinstance(files["path"], str) else files["path"]
    except (KeyError, TypeError):  # `data_files` may also be bare patterns, which name no split
        return None
    return [path for pattern in patterns for path in folder.glob(pattern)] if configs else None


def _strings(value: Any) -> Iterator[str]:
    """Every string in a row, whatever it is nested in, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _strings(entry)
