"""Reads rows from any known place: (origin, row) one after the other. Files of lines and tables are streamed, never held whole."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from sftstudy.config import HubSplit, LocalFile, Location
from sftstudy.environment import hub_remedy
from sftstudy.errors import StudyError
from sftstudy.locate import files_below, locate, name_of
from sftstudy.paths import Layout

Rows = Iterator[tuple[str, dict[str, Any]]]
ROWS_PER_BATCH = 1000


def read_rows(location: Location, *, layout: Layout) -> Rows:
    """(origin, row) of every row of a place: `file:line` for JSON lines, `file` for YAML, else `file: row N`, from 1.

    A folder gives the `qna.yaml` files below it, in the order of their names.
    """
    if isinstance(location, HubSplit):
        return _hub_rows(location)
    if isinstance(location, LocalFile) and Path(location.path).is_dir():
        return _folder_rows(Path(location.path))
    path = locate(location, layout, registry="data.yaml")
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    match suffixes[-1] if suffixes else "":
        case ".jsonl":
            return _line_rows(path)
        case ".json":
            return _json_rows(path)
        case ".parquet" | ".arrow":
            return _table_rows(path)
        case ".yaml" | ".yml":
            return _yaml_rows(path)
    raise StudyError(f"{path}: unknown kind of file; give .jsonl, .json (both also .gz), .parquet, .arrow or .yaml")


def kind_of(value: Any) -> str:
    """What a JSON value is, in the words of a message to the user."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else "an empty list" if value == [] else names.get(type(value), type(value).__name__)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not blank. A line ends at \\n alone: JSON strings may hold U+2028 and its like."""
    opener: Callable[..., TextIO] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
            yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise StudyError(f"{path}: cannot be read as text: {error}") from None


def _line_rows(path: Path) -> Rows:
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise StudyError(f"{path}:{number}: not JSON: {error}") from None
        yield f"{path}:{number}", _object(row, f"{path}:{number}")


def _json_rows(path: Path) -> Rows:
    """Rows of an array, of an object with one list, or of lines of JSON under this name. Only the last kind can be streamed."""
    lines = _lines(path)
    first = list(islice(lines, 2))
    if len(first) == 2 and _is_object(first[0][1]):
        yield from _line_rows(path)
        return
    try:
        value = json.loads("".join(line for _, line in chain(first, lines)))
    except ValueError as error:
        raise StudyError(f"{path}: not JSON: {error}") from None
    if isinstance(value, dict):
        lists = [name for name, entry in value.items() if isinstance(entry, list)]
        # a single row in JSON lines is an object too; its list is of messages, and it has other marks of a row
        if set(value) & {"messages", "conversations", "prompt", "instruction"}:
            value = [value]
        elif len(lists) == 1:
            value = value[lists[0]]
        else:
            raise StudyError(
                f"{path}: an object with {len(lists)} lists; expected an array of rows, or an object with one list of them"
            )
    if not isinstance(value, list):
        raise StudyError(f"{path}: holds {kind_of(value)}; expected an array of rows, or an object with one list of them")
    for number, row in enumerate(value, start=1):
        yield f"{path}: row {number}", _object(row, f"{path}: row {number}")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _table_rows(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        if path.suffix == ".parquet":
            yield from pq.ParquetFile(path).iter_batches(batch_size=ROWS_PER_BATCH)
            return
        with pa.memory_map(str(path)) as source:
            try:
                file = pa.ipc.open_file(source)
                stored = (file.get_batch(number) for number in range(file.num_record_batches))
            except pa.ArrowInvalid:  # `datasets` writes the stream variant
                source.seek(0)
                stored = iter(pa.ipc.open_stream(source))
            for batch in stored:
                yield from (batch.slice(place, ROWS_PER_BATCH) for place in range(0, batch.num_rows, ROWS_PER_BATCH))

    number = 0
    try:
        for batch in batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except pa.ArrowInvalid as error:
        raise StudyError(f"{path}: not a {path.suffix[1:]} file: {error}") from None


def _folder_rows(folder: Path) -> Rows:
    files = files_below(folder)
    if not files:
        raise StudyError(f"{folder}: no qna.yaml in this folder or below; correct its path in data.yaml")
    return chain.from_iterable(_yaml_rows(path) for path in files)


def _yaml_rows(path: Path) -> Rows:
    import yaml

    try:
        value = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    yield str(path), _object(value, str(path))


def _hub_rows(split: HubSplit) -> Rows:
    from datasets import load_dataset

    name = name_of(split)
    try:
        rows = load_dataset(split.hub, split.config, split=split.split, revision=split.revision)
    except Exception as error:  # the library raises dozens of kinds, all of which mean that the rows are not to be had
        first = next(iter(str(error).splitlines()), type(error).__name__)
        remedy = f"check name, split and revision, and that the hub or its cache can be reached{hub_remedy()}"
        raise StudyError(f"{name}: {first}; {remedy}") from None
    for number, row in enumerate(rows, start=1):
        yield f"{name}: row {number}", row


def _object(row: Any, origin: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise StudyError(f"{origin}: expected an object, found {kind_of(row)}")
    return row
