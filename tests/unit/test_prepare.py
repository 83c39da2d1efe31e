"""Cleaning and the mask report, on rows whose tokens can be counted by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from sftstudy.config import Phase
from sftstudy.data.prepare import prepare_phase
from sftstudy.errors import StudyError
from sftstudy.models import fetch_model
from sftstudy.records import RoleTokens, write_record
from sftstudy.rows import read_rows


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
    assert record.role_tokens["user"] == RoleTokens(num_turns=2, num_tokens=5, num_supervised_tokens=0)
    assert record.role_tokens["assistant"] == RoleTokens(num_turns=2, num_tokens=6, num_supervised_tokens=6)
    rows = read_rows(study.layout.phase_rows("toy", "facts", "facts"), remedy="")
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


def test_data_hash_sees_every_token_and_mask() -> None:
    from sftstudy.rows import from_lists

    variants = [
        from_lists([[1, 2], [3]], [[False, True], [True]]),
        from_lists([[1], [2, 3]], [[False], [True, True]]),
        from_lists([[1, 2], [4]], [[False, True], [True]]),
        from_lists([[1, 2], [3]], [[False, True], [False]]),
    ]
    assert len({rows.data_hash() for rows in variants}) == 4
