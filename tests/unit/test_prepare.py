"""Cleaning and the mask report, on rows whose tokens can be counted by hand."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sftstudy.config import LocalFile, Phase
from sftstudy.data import prepare
from sftstudy.data.prepare import prepare_phase
from sftstudy.errors import StudyError
from sftstudy.models import fetch_model
from sftstudy.records import RoleTokens, write_record
from sftstudy.rows import read_rows
from sftstudy.semantics import SEMANTICS
from sftstudy.spec import ItemPlaces


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS = [row("what is grass", "green"), row("the sky", "blue and blue"), row("one", " "), row("one " * 60, "two")]


def prepared(new_study: Callable[..., Any], rows: list[dict[str, Any]], *, num_samples: int | None = None, **changes: Any) -> Any:
    study = new_study(rows, **changes)
    if num_samples is not None:
        definition = study.phase.definition
        study.phase = study.phase.model_copy(update={"definition": Phase(sources=definition.sources, num_samples=num_samples)})
    write_record(study.layout.model_record("toy"), fetch_model(study.model, layout=study.layout))
    return study, prepare_phase(study.phase, layout=study.layout)


def test_report_and_rows(new_study: Callable[..., Any], tokenizer: Any) -> None:
    study, record = prepared(new_study, ROWS, num_samples=2, over_length="drop", empty_replies="drop")
    assert (record.num_read, record.num_samples, record.dropped) == (4, 2, {"empty_reply": 1, "over_length": 1})
    # <bos> <|user|> what is grass <|assistant|> green <|end|>, and the same with 2 and 3 words
    assert (record.num_tokens, record.num_supervised_tokens) == (8 + 9, 2 + 4)
    assert (record.supervised_per_turn, record.eos_supervised_share, record.bos_per_sample) == (3.0, 1.0, 1.0)
    assert record.tokens_per_sample == {"min": 8, "median": 8.5, "mean": 8.5, "p95": 8.95, "max": 9}
    assert (record.length_histogram.edges, record.length_histogram.counts) == ([8, 9, 10], [1, 1])
    # <bos> and <|user|> frame the question, <|assistant|> the reply
    assert record.role_tokens == {
        "user": RoleTokens(num_turns=2, num_tokens=2 * 2 + 5, num_supervised_tokens=0),
        "assistant": RoleTokens(num_turns=2, num_tokens=2 + 6, num_supervised_tokens=6),
    }
    rows = read_rows(study.layout.tokenised_rows(record.rows_key), remedy="")
    ids, supervised = rows.row(1)
    assert tokenizer.decode(ids[supervised]) == "blue and blue <|end|>"
    assert (len(rows), rows.lengths.tolist(), rows.supervised_lengths.tolist()) == (2, [8, 9], [2, 4])
    assert rows.data_hash() == record.data_hash
    assert prepare_phase(study.phase, layout=study.layout) == record


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (ROWS[:2], {"num_samples": 3}, r"data.yaml: facts.phases.facts.num_samples: 3 planned, 2 left .*; write 2$"),
        (ROWS[:3], {}, r"rows.jsonl:3: an empty assistant's reply; .*`empty_replies: drop`"),
        (ROWS[3:], {}, r"rows.jsonl:1: 65 tokens, max_length is 64; .*`over_length: drop`"),
        (ROWS[2:], {"over_length": "drop", "empty_replies": "drop"}, r"no samples left after cleaning"),
    ],
)
def test_what_ends_preparation(new_study: Callable[..., Any], rows: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        prepared(new_study, rows, **changes)


def test_other_libraries_than_planned_end_preparation(new_study: Callable[..., Any]) -> None:
    from importlib.metadata import version

    found = version("transformers")
    study, record = prepared(new_study, ROWS[:2])

    def prepare_with(libraries: dict[str, str]) -> Any:
        return prepare_phase(study.phase.model_copy(update={"libraries": libraries}), layout=study.layout)

    assert prepare_with({"transformers": found.split(".")[0]}).data_hash == record.data_hash
    for name, major, message in [("transformers", "4", f"{found} is installed"), ("nothere", "1", "none is installed")]:
        remedy = rf"; `pip install -c constraints.txt {name}`, or change PINNED_MAJORS"
        with pytest.raises(StudyError, match=rf"^{name}: {message}, the plan tokenises with {major}.x{remedy}"):
            prepare_with({name: major})


def test_a_changed_tokenizer_is_noticed(new_study: Callable[..., Any]) -> None:
    study, _ = prepared(new_study, ROWS[:2])
    (study.layout.model_folder("toy") / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(StudyError, match=r"toy: its tokenizer is gone or changed; .* --forcerun .*model.json"):
        prepare_phase(study.phase, layout=study.layout)


LONG = row("one " * 60, "two three")


def test_truncation_is_counted_and_leaves_a_reply_open(new_study: Callable[..., Any]) -> None:
    # <bos> <|user|> one x 60 <|assistant|> two three <|end|> are 66 tokens
    study, record = prepared(new_study, [ROWS[0], LONG], over_length="truncate")
    assert (record.truncated, record.dropped, record.tokens_per_sample["max"]) == (1, {}, 64)
    assert (record.eos_supervised_share, record.num_supervised_tokens) == (0.5, 2 + 1)
    ids, supervised = read_rows(study.layout.tokenised_rows(record.rows_key), remedy="").row(1)
    assert (len(ids), supervised.tolist()) == (64, [False] * 63 + [True])


def test_chats_without_supervision(new_study: Callable[..., Any]) -> None:
    rows = [ROWS[0], row("one " * 70, "two")]
    with pytest.raises(StudyError, match=r"rows.jsonl:2: no token of it would be trained on; .*`no_supervision: drop`"):
        prepared(new_study, rows, over_length="truncate")
    _, record = prepared(new_study, rows, over_length="truncate", no_supervision="drop", num_samples=1)
    assert (record.dropped, record.truncated) == ({"no_supervision": 1}, 0)


def test_special_tokens_in_text(new_study: Callable[..., Any]) -> None:
    rows = [ROWS[0], row("one <|assistant|> two", "three")]
    with pytest.raises(StudyError, match=r"rows.jsonl:2: its text holds <\|assistant\|>, .*`special_tokens_in_text: drop`"):
        prepared(new_study, rows)
    _, record = prepared(new_study, rows, special_tokens_in_text="drop", num_samples=1)
    assert record.dropped == {"special_tokens_in_text": 1}


def test_exact_duplicates(new_study: Callable[..., Any]) -> None:
    rows = [*ROWS[:2], {"id": 7, **ROWS[0]}]
    _, record = prepared(new_study, rows)
    assert (record.num_samples, record.exact_duplicates, record.dropped) == (3, 1, {})
    _, record = prepared(new_study, rows, exact_duplicates="drop", num_samples=2)
    assert (record.exact_duplicates, record.dropped) == (1, {"exact_duplicate": 1})
    with pytest.raises(StudyError, match=r"rows.jsonl:3: equal to an earlier chat .*`exact_duplicates: drop`"):
        prepared(new_study, rows, exact_duplicates="fail")


def test_near_duplicates(new_study: Callable[..., Any]) -> None:
    long = "one two three four five six seven eight nine ten and the sky is blue and the grass is green of a colour"
    rows = [row(long, "green"), ROWS[0], row(long, "green !"), row(long + " ten", "green")]
    _, record = prepared(new_study, rows, near_duplicates="drop", near_duplicate_threshold=0.7, num_samples=2)
    assert record.dropped == {"near_duplicate": 2}


def test_overlap_with_a_benchmark_is_dropped(new_study: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "exam.jsonl").write_text('{"question": "What is one and two and three?", "options": ["six", "two"]}\n')
    items = {"exam": ItemPlaces(uses=[LocalFile(path=str(tmp_path / "exam.jsonl"))])}
    rows = [row("what is one and two and four", "seven"), row("three is a , what is one and two and three ?", "six")]
    study, record = prepared(new_study, rows, overlap=items, drop_overlap_with=["exam"], num_samples=1)
    assert record.dropped == {"benchmark_overlap": 1}
    (tmp_path / "exam.jsonl").write_text('{"question": "two"}\n')
    with pytest.raises(StudyError, match="1 planned, 2 left"):
        prepare_phase(study.phase, layout=study.layout)


def test_supervision_of_everything_but_the_first_token(new_study: Callable[..., Any]) -> None:
    _, record = prepared(new_study, ROWS[:2], supervise="all")
    assert record.num_supervised_tokens == record.num_tokens - 2


def test_rows_on_file_are_published_again_if_their_bytes_verify(
    new_study: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, record = prepared(new_study, ROWS[:2])
    path = study.layout.tokenised_rows(record.rows_key)
    made: list[str] = []
    make = prepare._make

    def counted(*args: Any) -> Any:
        key, report = make(*args)
        made.append(key)
        return key, report

    monkeypatch.setattr(prepare, "_make", counted)
    assert prepare_phase(study.phase, layout=study.layout) == record
    assert made == []
    renamed = study.phase.model_copy(update={"phase": "others"})
    assert prepare_phase(renamed, layout=study.layout).rows_key == record.rows_key
    assert made == []
    whole = path.read_bytes()
    (token,) = read_rows(path, remedy="").input_ids[-1:]
    place = whole.rindex(int(token).to_bytes(4, "little"))
    path.write_bytes(whole[:place] + b"\x07\0\0\0" + whole[place + 4 :])
    assert prepare_phase(study.phase, layout=study.layout) == record
    assert (made, path.read_bytes()) == ([record.rows_key], whole)
    other = prepare_phase(study.phase.model_copy(update={"max_length": 63}), layout=study.layout)
    assert (other.data_hash, len(made)) == (record.data_hash, 2)
    assert other.rows_key != record.rows_key
    assert sorted(study.layout.scratch.glob("tokenised/*")) == sorted(study.layout.scratch.glob("tokenised/*.arrow"))


def test_the_key_sees_whatever_the_rows_depend_on(new_study: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    phase = new_study(ROWS).phase
    (source,) = phase.definition.sources

    def method(spec: Any = phase, *, template: str = "t", special: str = "<s>", tokenizer: str = "h", items: str = "i") -> str:
        chats = SimpleNamespace(template=template, forgeries=SimpleNamespace(pattern=special))
        tokeniser: Any = SimpleNamespace(chats=chats)
        model: Any = SimpleNamespace(tokenizer_hash=tokenizer)
        return prepare._method(spec, tokeniser, model, items_hash=items)

    def mixed(**changes: Any) -> Any:
        sources = [source.model_copy(update=changes)]
        return phase.model_copy(update={"definition": phase.definition.model_copy(update={"sources": sources})})

    halved = phase.definition.model_copy(update={"half": "shorter"})
    found = [
        method(),
        method(template="u"),
        method(special="</s>"),
        method(tokenizer="k"),
        method(items="j"),
        method(phase.model_copy(update={"max_length": 63})),
        method(phase.model_copy(update={"over_length": "truncate"})),
        method(phase.model_copy(update={"supervise": "all"})),
        method(mixed(weight=0.5)),
        method(mixed(max_samples=1)),
        method(phase.model_copy(update={"definition": halved})),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_installed", lambda _: "999.0")
        found.append(method())
    monkeypatch.setitem(SEMANTICS, "prepare_phase", 999)
    found.append(method())
    assert len(set(found)) == len(found) == 13


def test_rows_do_not_depend_on_the_number_of_processes(new_study: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.data import parallel, prepare

    study, record = prepared(new_study, [row(f"what is {number}", "green") for number in range(40)])
    path = study.layout.tokenised_rows(record.rows_key)
    whole = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(prepare, "CHATS_PER_CHUNK", 7)
    monkeypatch.setattr(parallel, "CHUNKS_PER_PROCESS", 2)
    assert prepare_phase(study.phase, layout=study.layout, num_processes=2) == record
    assert path.read_bytes() == whole


def test_rows_are_mapped_and_not_copied(new_study: Callable[..., Any]) -> None:
    import pyarrow as pa

    study, record = prepared(new_study, ROWS[:2])
    before = pa.total_allocated_bytes()
    rows = read_rows(study.layout.tokenised_rows(record.rows_key), remedy="")
    assert pa.total_allocated_bytes() == before
    assert not any(array.flags.owndata for array in (rows.input_ids, rows.supervised, rows.offsets))


def test_data_hash_sees_every_token_and_mask() -> None:
    from sftstudy.rows import from_lists

    variants = [
        from_lists([[1, 2], [3]], [[False, True], [True]]),
        from_lists([[1], [2, 3]], [[False], [True, True]]),
        from_lists([[1, 2], [4]], [[False, True], [True]]),
        from_lists([[1, 2], [3]], [[False, True], [False]]),
    ]
    assert len({rows.data_hash() for rows in variants}) == 4
