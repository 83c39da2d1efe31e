"""Reads training sources of any known place and format into chats. A row that does not fit ends with its file and number."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftstudy.config import Format, HubSplit, Location, Phase, Source
from sftstudy.errors import StudyError
from sftstudy.locate import locate, name_of
from sftstudy.paths import Layout

ROLES = ("system", "user", "assistant")
SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
FIELDS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages", "role", "content"),
    "prompt-response": ("prompt", "response", "system"),
    "instruction-input-output": ("instruction", "input", "output", "system"),
    "sharegpt": ("conversations", "from", "value", "system"),
}
"""The names that each format reads, which a source's `columns` may map to others."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """A training sample. `origin` is its file and row, for messages to the user; `row_hash` is of the row's canonical JSON."""

    messages: list[Message]
    origin: str
    row_hash: str


@dataclass(frozen=True)
class SourceChats:
    """What a source holds: the chats that its weight keeps, and how many rows were read."""

    chats: list[Chat]
    num_read: int


def read_phase(definition: Phase, *, data: str, phase: str, layout: Layout) -> list[SourceChats]:
    """What each source of a phase holds. Raises StudyError as `read_source` does, and names data, phase and source."""
    sources = []
    for number, source in enumerate(definition.sources, start=1):
        try:
            sources.append(read_source(source, layout=layout))
        except StudyError as error:
            raise StudyError(f"data {data}, phase {phase}, source {number}: {error}") from None
    return sources


def read_source(source: Source, *, layout: Layout) -> SourceChats:
    """All chats of a source, in the order of its rows. Raises StudyError for a missing file, a malformed row or no rows at all."""
    if unknown := sorted(set(source.columns) - set(FIELDS[source.format])):
        wanted = ", ".join(FIELDS[source.format])
        raise StudyError(f"columns: format {source.format!r} has no field {unknown[0]!r}; it has {wanted}")
    chats: list[Chat] = []
    num_read, origin = 0, str(source.location)
    for origin, row in read_rows(source.location, layout=layout):
        num_read += 1
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
        row_hash = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        messages = to_messages(row, source.format, columns=source.columns, origin=origin)
        if int(row_hash[:16], 16) < source.weight * 2**64:
            chats.append(Chat(messages, origin, row_hash))
    if not chats:
        found = f"weight {source.weight} keeps none of its {num_read} rows" if num_read else "no rows"
        raise StudyError(f"{name_of(source.location)}: {found}; correct the source in data.yaml")
    return SourceChats(chats, num_read)


# --- rows ------------------------------------------------------------------------------------------------------------


def read_rows(location: Location, *, layout: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    """(origin, row) of every row of a place: `file:line` for JSON lines, else `file: row N`, from 1."""
    if isinstance(location, HubSplit):
        yield from _hub_rows(location)
        return
    path = locate(location, layout, registry="data.yaml")
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    match suffixes[-1] if suffixes else "":
        case ".jsonl":
            yield from _json_lines(path, _text(path))
        case ".json":
            yield from _json_rows(path, _text(path))
        case ".parquet" | ".arrow":
            yield from _table_rows(path)
        case _:
            raise StudyError(f"{path}: unknown kind of file; give .jsonl, .json (both also .gz), .parquet or .arrow")


def _text(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read as text: {error}") from None


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # not splitlines(): JSON strings may hold U+2028 and its like
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise StudyError(f"{path}:{number}: not JSON: {error}") from None
            yield f"{path}:{number}", _checked(row, f"{path}:{number}")


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        value = json.loads(text)
    except ValueError as error:
        if "Extra data" not in str(error):
            raise StudyError(f"{path}: not JSON: {error}") from None
        yield from _json_lines(path, text)
        return
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
        raise StudyError(f"{path}: holds {_kind(value)}; expected an array of rows, or an object with one list of them")
    for number, row in enumerate(value, start=1):
        yield f"{path}: row {number}", _checked(row, f"{path}: row {number}")


def _table_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            with pa.memory_map(str(path)) as source:
                try:
                    table = pa.ipc.open_file(source).read_all()
                except pa.ArrowInvalid:  # `datasets` writes the stream variant
                    source.seek(0)
                    table = pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid as error:
        raise StudyError(f"{path}: not a {path.suffix[1:]} file: {error}") from None
    number = 0
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            number += 1
            yield f"{path}: row {number}", row


def _hub_rows(split: HubSplit) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    name = name_of(split)
    try:
        rows = load_dataset(split.hub, split.config, split=split.split, revision=split.revision)
    except Exception as error:  # the library raises dozens of kinds, all of which mean that the rows are not to be had
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise StudyError(f"{name}: {first}; check name, split and revision, and that the hub or its cache can be reached") from None
    for number, row in enumerate(rows, start=1):
        yield f"{name}: row {number}", row


def _checked(row: Any, origin: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise StudyError(f"{origin}: expected an object, found {_kind(row)}")
    return row


# --- formats ---------------------------------------------------------------------------------------------------------


def to_messages(row: Mapping[str, Any], format: Format, *, columns: Mapping[str, str], origin: str) -> list[Message]:
    """The chat of one row: an optional system message, then a user message, and a reply somewhere. StudyError otherwise."""

    def field(name: str, of: Mapping[str, Any], place: str) -> str:
        column = columns.get(name, name)
        value = of.get(column)
        if not isinstance(value, str):
            found = _kind(value) if column in of else f"only {', '.join(sorted(map(str, of))) or 'nothing'}"
            raise StudyError(f"{origin}: {place}expected a string in {column!r}, found {found}")
        return value

    def optional(name: str) -> str:
        return field(name, row, "") if row.get(columns.get(name, name)) is not None else ""

    def turns(name: str, role: str, content: str, roles: Mapping[str, str]) -> list[Message]:
        column = columns.get(name, name)
        value = row.get(column)
        if not isinstance(value, list) or not value:
            found = _kind(value) if column in row else f"only {', '.join(sorted(map(str, row))) or 'nothing'}"
            raise StudyError(f"{origin}: expected a list of messages in {column!r}, found {found}")
        made = []
        for number, entry in enumerate(value, start=1):
            if not isinstance(entry, dict):
                raise StudyError(f"{origin}: message {number}: expected an object, found {_kind(entry)}")
            word = field(role, entry, f"message {number}: ")
            if word not in roles:
                raise StudyError(f"{origin}: message {number}: expected one of {', '.join(roles)} as role, found {word!r}")
            made.append(Message(roles[word], field(content, entry, f"message {number}: ")))
        return made

    system = [Message("system", text)] if format != "messages" and (text := optional("system")) else []
    match format:
        case "messages":
            messages = turns("messages", "role", "content", {role: role for role in ROLES})
        case "prompt-response":
            messages = [Message("user", field("prompt", row, "")), Message("assistant", field("response", row, ""))]
        case "instruction-input-output":
            request = "\n\n".join(filter(None, [field("instruction", row, ""), optional("input")]))
            messages = [Message("user", request), Message("assistant", field("output", row, ""))]
        case "sharegpt":
            messages = turns("conversations", "from", "value", SHAREGPT_ROLES)
    messages = system + messages
    roles = [message.role for message in messages]
    if "system" in roles[1:]:
        raise StudyError(f"{origin}: message {roles.index('system', 1) + 1}: a system message may only come first")
    if "assistant" not in roles or roles[1 if roles[0] == "system" else 0] != "user":
        raise StudyError(f"{origin}: expected a user message first and an assistant's reply, found {', '.join(roles)}")
    return messages


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else "an empty list" if value == [] else names.get(type(value), type(value).__name__)
