"""Every row of a data set is read before anything is trained on it."""

import json
from pathlib import Path

import pytest

from sftstudy import config
from sftstudy.data.validate import validate_data
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.spec import DataSpec

GOOD = {"prompt": "hello", "response": "hi"}


def spec(folder: Path, *rows: object, num_samples: int = 1) -> DataSpec:
    """A sound first phase, and a second one with the given lines."""
    phases = {}
    for name, lines in {"first": [GOOD], "second": rows}.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        source = config.Source.model_validate({"from": {"path": str(path)}, "format": "prompt-response"})
        phases[name] = config.Phase(sources=[source], num_samples=num_samples if name == "second" else 1)
    return DataSpec(name="mine", phases=phases)


def test_sound_data_is_counted(tmp_path: Path) -> None:
    record = validate_data(spec(tmp_path, GOOD, GOOD), layout=Layout())
    assert record.num_chats == {"first": 1, "second": 2}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{broken"], "data mine, phase second, source 1: {folder}/second.jsonl:1: not JSON"),
        (
            [GOOD, {"prompt": "hello"}],
            "data mine, phase second, source 1: {folder}/second.jsonl:2: expected a string in 'response'",
        ),
        ([], "data mine, phase second, source 1: {folder}/second.jsonl: no rows"),
        ([GOOD], "data.yaml: mine.phases.second.num_samples: 2 planned, the sources hold only 1; write at most 1"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(rows: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        validate_data(spec(tmp_path, *rows, num_samples=2), layout=Layout())
    assert message.format(folder=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
