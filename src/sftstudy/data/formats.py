"""Reads training sources of any known format into chats. A row that does not fit ends with its file and number."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftstudy.config import Format, LocalFile, Phase, Source
from sftstudy.data.files import kind_of, read_rows
from sftstudy.data.threads import as_trees, threads_of
from sftstudy.errors import StudyError
from sftstudy.locate import name_of
from sftstudy.paths import Layout

ROLES = ("system", "user", "assistant")
SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
SDG_ROLES = {role: role for role in (*ROLES, "pretraining")}
FIELDS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages", "role", "content"),
    "prompt-response": ("prompt", "response", "system"),
    "instruction-input-output": ("instruction", "input", "output", "system", "instances"),
    "sharegpt": ("conversations", "from", "value", "system"),
    "sdg": ("messages", "role", "content"),
    "taxonomy": (),
    "oasst": (),
}
"""The names that each format reads, which a source's `columns` may map to others."""

TEACHER_TURN = re.compile(
    r"<\|start_of_role\|>(?P<role>\w+)<\|end_of_role\|>|^<\|(?P<legacy>system|user|assistant)\|>\n", re.MULTILINE
)
"""What opens a turn in the one-string chats of InstructLab's SDG (sdg's `_conv_pretrain`, today's form and its legacy one)."""

TEACHER_END = "<|end_of_text|>"


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """A training sample. `origin` is its file and row, for messages to the user.

    `messages` is empty where a row holds no chat at all, such as a tree without a reply: nothing vanishes uncounted.
    """

    messages: list[Message]
    origin: str

    def chat_hash(self) -> str:
        """First 32 hex digits of the SHA-256 of roles and contents: equal chats have equal hashes, wherever they stand."""
        text = json.dumps([[message.role, message.content] for message in self.messages], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class SourceChats:
    """A source's definition and its chats, which are read while they are iterated over, once."""

    definition: Source
    chats: Iterator[Chat]


def read_phase(definition: Phase, *, data: str, phase: str, layout: Layout) -> Iterator[SourceChats]:
    """Every source of a phase. Iterating raises StudyError as `read_source` does, and names data, phase and source."""

    def named(chats: Iterator[Chat], number: int) -> Iterator[Chat]:
        try:
            yield from chats
        except StudyError as error:
            raise StudyError(f"data {data}, phase {phase}, source {number}: {error}") from None

    for number, source in enumerate(definition.sources, start=1):
        yield SourceChats(source, named(read_source(source, layout=layout), number))


def read_source(source: Source, *, layout: Layout) -> Iterator[Chat]:
    """All chats of a source, in the order of its rows. Raises StudyError for a missing file, a malformed row or no rows at all."""
    fields = FIELDS[source.format]
    if unknown := sorted(set(source.columns) - set(fields)):
        wanted = ", ".join(fields) or "no columns to map"
        raise StudyError(f"columns: format {source.format!r} has no field {unknown[0]!r}; it has {wanted}")
    if source.format != "taxonomy" and isinstance(source.location, LocalFile) and Path(source.location.path).is_dir():
        raise StudyError(f"{name_of(source.location)}: a folder; name a file, or set `format: taxonomy` for one of qna.yaml files")
    rows = read_rows(source.location, layout=layout)
    found = False
    for origin, row in as_trees(rows) if source.format == "oasst" else rows:
        found = True
        yield from to_chats(row, source, origin=origin)
    if not found:
        raise StudyError(f"{name_of(source.location)}: no rows; correct the source in data.yaml")


def to_chats(row: Mapping[str, Any], source: Source, *, origin: str) -> list[Chat]:
    """The chats of one row, at least one; several have their number behind `origin`. Raises StudyError if the row does not fit."""
    reader = RowReader(row, columns=source.columns, origin=origin)
    match source.format:
        case "messages":
            found, word = [reader.turns("messages", "role", "content", {role: role for role in ROLES})], "chat"
        case "prompt-response":
            found, word = [reader.pair("prompt", "response")], "chat"
        case "instruction-input-output":
            found, word = reader.instances(), "instance"
        case "sharegpt":
            found, word = [reader.turns("conversations", "from", "value", SHAREGPT_ROLES)], "chat"
        case "sdg":
            found, word = [reader.unfolded()], "chat"
        case "taxonomy":
            found, word = reader.seed_examples(), "example"
        case "oasst":
            threads = threads_of(row, every=source.threads == "all", origin=origin)
            found = [[Message(role, text) for role, text in thread] for thread in threads]
            if not found:
                return [Chat([], origin)]
            word = "thread"
    origins = [f"{origin} ({word} {number})" for number in range(1, len(found) + 1)] if len(found) > 1 else [origin]
    return [Chat(checked(messages, origin=place), place) for messages, place in zip(found, origins, strict=True)]


def checked(messages: list[Message], *, origin: str) -> list[Message]:
    """A chat: an optional system message, then a user message, and a reply somewhere. Raises StudyError otherwise."""
    roles = [message.role for message in messages]
    if "system" in roles[1:]:
        raise StudyError(f"{origin}: message {roles.index('system', 1) + 1}: a system message may only come first")
    if "assistant" not in roles or roles[1 if roles[0] == "system" else 0] != "user":
        raise StudyError(f"{origin}: expected a user message first and an assistant's reply, found {', '.join(roles)}")
    return messages


@dataclass(frozen=True)
class RowReader:
    """Reads fields of one row under the names that the user gave them. Raises StudyError with the row's origin."""

    row: Mapping[str, Any]
    columns: Mapping[str, str]
    origin: str

    def turns(self, name: str, role: str, content: str, roles: Mapping[str, str]) -> list[Message]:
        """A list of messages in a column, after the row's system message if the format has one."""
        made = self._system() if name == "conversations" else []
        for number, entry in enumerate(self._list(self.row, name, "messages"), start=1):
            place = f"message {number}: "
            if not isinstance(entry, dict):
                raise StudyError(f"{self.origin}: {place}expected an object, found {kind_of(entry)}")
            word = self._text(entry, role, place)
            if word not in roles:
                raise StudyError(f"{self.origin}: {place}expected one of {', '.join(roles)} as role, found {word!r}")
            made.append(Message(roles[word], self._text(entry, content, place)))
        return made

    def pair(self, prompt: str, response: str) -> list[Message]:
        """One question and its answer in two columns."""
        return [
            *self._system(),
            Message("user", self._text(self.row, prompt)),
            Message("assistant", self._text(self.row, response)),
        ]

    def instances(self) -> list[list[Message]]:
        """An instruction with its input and output, or a chat for each of its `instances`, as self-instruct has them."""
        column = self.columns.get("instances", "instances")
        entries = self._list(self.row, "instances", "instances") if self.row.get(column) is not None else [self.row]
        made, instruction = [], self._text(self.row, "instruction")
        for number, entry in enumerate(entries, start=1):
            place = f"instance {number}: " if entry is not self.row else ""
            if not isinstance(entry, dict):
                raise StudyError(f"{self.origin}: {place}expected an object, found {kind_of(entry)}")
            request = "\n\n".join(filter(None, [instruction, self._optional(entry, "input", place)]))
            made.append([*self._system(), Message("user", request), Message("assistant", self._text(entry, "output", place))])
        return made

    def unfolded(self) -> list[Message]:
        """A list of messages in which a message of role `pretraining` is a whole chat in the teacher's own template."""
        made: list[Message] = []
        for number, message in enumerate(self.turns("messages", "role", "content", SDG_ROLES), start=1):
            made += self._teacher_turns(message.content, number) if message.role == "pretraining" else [message]
        return made

    def seed_examples(self) -> list[list[Message]]:
        """Questions and answers of a taxonomy's qna.yaml, each with its context before the question."""
        made = []
        for number, example in enumerate(self._list(self.row, "seed_examples", "examples"), start=1):
            place = f"seed example {number}: "
            if not isinstance(example, dict):
                raise StudyError(f"{self.origin}: {place}expected an object, found {kind_of(example)}")
            context = self._optional(example, "context", place)
            nested = "questions_and_answers" in example
            for pair in self._list(example, "questions_and_answers", "questions", place) if nested else [example]:
                if not isinstance(pair, dict):
                    raise StudyError(f"{self.origin}: {place}expected an object, found {kind_of(pair)}")
                question, answer = (self._text(pair, name, place).strip() for name in ("question", "answer"))
                request = "\n\n".join(filter(None, [context.strip(), question]))
                made.append([Message("user", request), Message("assistant", answer)])
        return made

    def _teacher_turns(self, text: str, number: int) -> list[Message]:
        marks = list(TEACHER_TURN.finditer(text))
        if not marks or text[: marks[0].start()].strip():
            raise StudyError(f"{self.origin}: message {number}: expected a chat in the teacher's template, found other text")
        made = []
        for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
            role = mark["role"] or mark["legacy"]
            if role not in ROLES:
                raise StudyError(f"{self.origin}: message {number}: expected one of {', '.join(ROLES)} as role, found {role!r}")
            made.append(Message(role, text[mark.end() : end].strip().removesuffix(TEACHER_END).strip()))
        return made

    def _system(self) -> list[Message]:
        text = self._optional(self.row, "system")
        return [Message("system", text)] if text else []

    def _text(self, of: Mapping[str, Any], name: str, place: str = "") -> str:
        column = self.columns.get(name, name)
        value = of.get(column)
        if not isinstance(value, str):
            raise StudyError(f"{self.origin}: {place}expected a string in {column!r}, found {_found(of, column)}")
        return value

    def _optional(self, of: Mapping[str, Any], name: str, place: str = "") -> str:
        return self._text(of, name, place) if of.get(self.columns.get(name, name)) is not None else ""

    def _list(self, of: Mapping[str, Any], name: str, what: str, place: str = "") -> list[Any]:
        column = self.columns.get(name, name)
        value = of.get(column)
        if not isinstance(value, list) or not value:
            raise StudyError(f"{self.origin}: {place}expected a list of {what} in {column!r}, found {_found(of, column)}")
        return value


def _found(of: Mapping[str, Any], column: str) -> str:
    return kind_of(of[column]) if column in of else f"only {', '.join(sorted(map(str, of))) or 'nothing'}"
