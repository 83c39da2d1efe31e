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
    return [chat.messages for chat in read_source(source, layout=Layout())]


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
        list(read_source(Source(location=PackageFile(package="nothere", file="x.jsonl")), layout=Layout()))


def test_a_split_is_read_through_the_datasets_library(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS["messages"])
    location = HubSplit(hub=str(tmp_path), split="train")
    assert [chat.messages for chat in read_source(Source(location=location), layout=Layout())] == [[ASK, REPLY]]
    with pytest.raises(StudyError, match=r"no/such \[train\]: .*; check name, split and revision"):
        list(read_source(Source(location=HubSplit(hub="no/such", split="train")), layout=Layout()))


TEACHER = "<|start_of_role|>user<|end_of_role|>\none ?\n<|start_of_role|>assistant<|end_of_role|>\ntwo<|end_of_text|>"
LEGACY = "<|user|>\none ?\n<|assistant|>\ntwo"


@pytest.mark.parametrize("folded", [TEACHER, LEGACY])
def test_a_chat_in_the_teachers_template_is_unfolded(folded: str, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "pretraining", "content": folded}]
    path = write(tmp_path / "rows.jsonl", {"messages": messages}, ROWS["messages"])
    assert read(path, format="sdg") == [[Message("system", "be kind"), ASK, REPLY], [ASK, REPLY]]
    write(path, {"messages": [{"role": "pretraining", "content": "no " + folded}]})
    with pytest.raises(StudyError, match=r"rows.jsonl:1: message 1: expected a chat in the teacher's template"):
        read(path, format="sdg")


def test_instances_are_chats_of_their_own(tmp_path: Path) -> None:
    row = {"instruction": "add", "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "?"}]}
    source = Source(location=LocalFile(path=str(write(tmp_path / "rows.jsonl", row))), format="instruction-input-output")
    found = list(read_source(source, layout=Layout()))
    assert [(chat.origin.split(":")[1], chat.messages[0].content, chat.messages[1].content) for chat in found] == [
        ("1 (instance 1)", "add\n\n1 1", "2"),
        ("1 (instance 2)", "add", "?"),
    ]
    write(tmp_path / "rows.jsonl", {"instruction": "add", "instances": [{"input": "1"}]})
    with pytest.raises(StudyError, match=r"rows.jsonl:1: instance 1: expected a string in 'output', found only input"):
        list(read_source(source, layout=Layout()))


QNA = """
version: 3
seed_examples:
  - context: "Grass is green.\\n"
    questions_and_answers:
      - {question: "one ?", answer: two}
      - {question: Which colour?, answer: green}
  - {question: "one ?", answer: two}
"""


def test_a_taxonomy_is_a_file_or_a_folder_of_them(tmp_path: Path) -> None:
    for name in ("b", "a/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "qna.yaml").write_text(QNA)
    with_context = Message("user", "Grass is green.\n\none ?")
    chats = [
        [with_context, REPLY],
        [Message("user", "Grass is green.\n\nWhich colour?"), Message("assistant", "green")],
        [ASK, REPLY],
    ]
    assert read(tmp_path / "b" / "qna.yaml", format="taxonomy") == chats
    source = Source(location=LocalFile(path=str(tmp_path)), format="taxonomy")
    origins = [chat.origin for chat in read_source(source, layout=Layout())]
    assert origins == [f"{tmp_path}/{name}/qna.yaml (example {number})" for name in ("a/c", "b") for number in (1, 2, 3)]
    with pytest.raises(StudyError, match="a folder; name a file, or set `format: taxonomy`"):
        read(tmp_path)
    (tmp_path / "b" / "qna.yaml").write_text("seed_examples: [{question: one}]")
    with pytest.raises(StudyError, match=r"b/qna.yaml: seed example 1: expected a string in 'answer', found only question"):
        read(tmp_path, format="taxonomy")


def node(name: str, role: str, *replies: Any, **settings: Any) -> dict[str, Any]:
    return {"message_id": name, "text": name, "role": role, "replies": list(replies), **settings}


TREE = {
    "prompt": node(
        "q", "prompter",
        node("second", "assistant", rank=1),
        node("best", "assistant", node("more", "prompter", node("gone", "assistant", deleted=True)), rank=0),
        node("bad", "assistant", rank=None, review_result=False),
    )
}  # fmt: skip


def test_threads_of_a_tree(tmp_path: Path) -> None:
    alone = {"prompt": node("q", "prompter", node("bad", "assistant", review_result=False))}
    path = write(tmp_path / "rows.jsonl", TREE, alone)

    def texts(**settings: Any) -> list[list[str]]:
        return [[message.content for message in chat] for chat in read(path, format="oasst", **settings)]

    # the best thread loses its question without an answer; the second tree has no reply and holds no chat
    assert texts() == [["q", "best"], []]
    assert texts(threads="all") == [["q", "second"], ["q", "best"], []]


def test_flat_messages_make_the_same_threads(tmp_path: Path) -> None:
    flat: list[dict[str, Any]] = []

    def flatten(message: dict[str, Any], parent: str | None) -> None:
        flat.append({key: value for key, value in message.items() if key != "replies"} | {"parent_id": parent})
        for reply in message["replies"]:
            flatten(reply, message["message_id"])

    flatten(TREE["prompt"], None)
    path = write(tmp_path / "rows.jsonl", *flat)
    assert len(flat) == 6
    assert read(path, format="oasst", threads="all") == read(write(tmp_path / "trees.jsonl", TREE), format="oasst", threads="all")
    write(path, *flat[1:])
    with pytest.raises(StudyError, match=r"rows.jsonl:1: its parent 'q' is not in this source"):
        read(path, format="oasst")


def test_lines_are_streamed(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS["messages"], {"bad": 1})
    path.write_bytes(gzip.compress(path.read_bytes()))
    path = path.rename(tmp_path / "rows.jsonl.gz")
    found = read_source(Source(location=LocalFile(path=str(path))), layout=Layout())
    assert next(found).messages == [ASK, REPLY]
    with pytest.raises(StudyError, match=r"rows.jsonl.gz:2: expected a list of messages"):
        next(found)
