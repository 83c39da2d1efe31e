"""Chats from every format, and one line for every malformed row."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sftstudy.config import HubSplit, LocalFile, PackageFile, Source
from sftstudy.data.formats import Message, read_source
from sftstudy.errors import StudyError
from sftstudy.paths import Layout

ASK, REPLY = Message("user", "one ?"), Message("assistant", "two")
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "one ?"}, {"role": "assistant", "content": "two"}]},
    "prompt-response": {"prompt": "one ?", "response": "two"},
    "instruction-input-output": {"instruction": "one ?", "input": "", "output": "two"},
    "sharegpt": {"conversations": [{"from": "human", "value": "one ?"}, {"from": "gpt", "value": "two"}]},
}


def read(path: Path, **settings: Any) -> list[list[Message]]:
    source = Source(location=LocalFile(path=str(path)), **settings)
    return [chat.messages for chat in read_source(source, layout=Layout()).chats]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("format", list(ROWS))
def test_formats_give_the_same_chat(format: str, tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows.jsonl", ROWS[format]), format=format) == [[ASK, REPLY]]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"q": "one ?", "a": "two", "s": "be kind"})
    chat = read(path, format="prompt-response", columns={"prompt": "q", "response": "a", "system": "s"})
    assert chat == [[Message("system", "be kind"), ASK, REPLY]]
    with pytest.raises(StudyError, match="no field 'question'; it has prompt, response"):
        read(path, format="prompt-response", columns={"question": "q"})


def test_instruction_and_input_are_joined(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"instruction": "add", "input": "one two", "output": "three"})
    assert read(path, format="instruction-input-output")[0][0].content == "add\n\none two"


def test_kinds_of_files_give_the_same_chats(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = ROWS["messages"]
    table = pa.Table.from_pylist([row, row])
    write(tmp_path / "lines.json", row, row)
    (tmp_path / "array.json").write_text(json.dumps([row, row]))
    (tmp_path / "object.json").write_text(json.dumps({"version": 1, "rows": [row, row]}))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress((json.dumps(row) + "\n").encode() * 2))
    pq.write_table(table, tmp_path / "rows.parquet")
    for name, opened in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with opened(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7
    assert [read(path) for path in files] == [[[ASK, REPLY]] * 2] * 7


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "one"}, r"rows.jsonl:2: expected a list of messages in 'messages', found only text"),
        ({"messages": []}, r"rows.jsonl:2: expected a list of messages in 'messages', found an empty list"),
        ([1], r"rows.jsonl:2: expected an object, found a list"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            r":2: message 1: expected one of system, user, assistant as role, found 'tool'",
        ),
        ({"messages": [{"role": "user", "content": None}]}, r":2: message 1: expected a string in 'content', found null"),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            r":2: expected a user message first and an assistant's reply, found user",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, r":2: expected a user message first .* found assistant"),
        (
            {"messages": [*ROWS["messages"]["messages"], {"role": "system", "content": "x"}]},
            r":2: message 3: a system message may only come first",
        ),
    ],
)
def test_malformed_row_names_file_and_line(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        read(write(tmp_path / "rows.jsonl", ROWS["messages"], row))


def test_broken_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": ')
    with pytest.raises(StudyError, match=r"rows.jsonl:1: not JSON"):
        read(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(StudyError, match=r"rows.jsonl: no rows"):
        read(tmp_path / "rows.jsonl")
    with pytest.raises(StudyError, match=r"none.jsonl: missing; correct its path in data.yaml"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(StudyError, match=r"package nothere: not installed"):
        read_source(Source(location=PackageFile(package="nothere", file="x.jsonl")), layout=Layout())


def test_a_split_is_read_through_the_datasets_library(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS["messages"])
    location = HubSplit(hub=str(tmp_path), split="train")
    assert [chat.messages for chat in read_source(Source(location=location), layout=Layout()).chats] == [[ASK, REPLY]]
    with pytest.raises(StudyError, match=r"no/such \[train\]: .*; check name, split and revision"):
        read_source(Source(location=HubSplit(hub="no/such", split="train")), layout=Layout())


def test_weight_keeps_a_share_by_content_and_not_by_place(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} ?", "response": "two"} for number in range(400)]
    kept = read(write(tmp_path / "rows.jsonl", *rows), format="prompt-response", weight=0.25)
    assert 70 < len(kept) < 130
    turned = read(write(tmp_path / "turned.jsonl", *rows[::-1]), format="prompt-response", weight=0.25)
    assert turned == kept[::-1]
