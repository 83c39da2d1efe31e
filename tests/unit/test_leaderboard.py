"""Raw scores on the leaderboard's scale: its documentation's examples, and what users' files may look like."""

import json
from collections import Counter
from pathlib import Path

import pytest

from sftstudy.averages import normalise
from sftstudy.errors import StudyError
from sftstudy.leaderboard import normalise_scores
from sftstudy.records import LeaderboardRecord
from sftstudy.registry import read_suites

SUITE = read_suites(Path(__file__).parents[2] / "config/benchmarks/leaderboard-v2.yaml")["leaderboard-v2"]
BBH = SUITE.benchmarks["leaderboard-bbh"].normalised.num_choices


def run(folder: Path, content: object) -> LeaderboardRecord:
    path = folder / "raw.json"
    path.write_text(json.dumps(content))
    return normalise_scores(path, SUITE)


MUSR = {"murder_mysteries": 0.7, "object_placements": 0.4, "team_allocation": 0.6}


@pytest.mark.parametrize(
    ("raw", "num_choices", "normalised"),
    [
        (0.5309, 10, 47.88),
        (0.6, 4, 46.67),
        (0.7, 2, 40),
        (0.4, 5, 25),
        (0.6, 3, 40),
        (0.24, 4, 0),
        (0.25, 4, 0),
        (1, 2, 100),
        (0.3, 0, 30),
    ],
)
def test_the_published_examples(raw: float, num_choices: int, normalised: float) -> None:
    assert 100 * normalise(raw, num_choices) == pytest.approx(normalised, abs=0.005)


def test_the_suite_has_the_leaderboards_sub_tasks() -> None:
    assert Counter(BBH.values()) == {2: 8, 3: 3, 4: 1, 5: 3, 6: 4, 7: 2, 11: 1, 18: 1, 19: 1}


@pytest.mark.parametrize(
    "spelt",
    [
        {f"leaderboard_musr_{name}": value for name, value in MUSR.items()},
        {f"musr_{name}": value for name, value in MUSR.items()},
        {"leaderboard_musr": 0.57, **MUSR},
        {"MUSR": MUSR},
        {"leaderboard_musr": {f"leaderboard_musr_{name}": value for name, value in MUSR.items()}},
        {"results": {f"leaderboard_musr_{name}": {"acc_norm,none": value, "alias": "x"} for name, value in MUSR.items()}},
    ],
)
def test_sub_tasks_are_normalised_one_by_one(tmp_path: Path, spelt: dict) -> None:
    score = run(tmp_path, spelt).tasks["musr"]
    assert [round(part.normalised, 6) for part in score.subtasks.values()] == [40, 25, 40]
    assert score.normalised == pytest.approx(35)


def everything() -> dict:
    ifeval = {"inst_level_strict_acc": 0.6, "prompt_level_strict_acc": 0.4}
    return {"IFEval": ifeval, "MATH Lvl 5": 0.1, "GPQA Raw": 0.6, "MMLU-PRO": 0.5309, "MUSR": MUSR, "BBH": dict.fromkeys(BBH, 0.4)}


def test_the_average_is_over_all_six(tmp_path: Path) -> None:
    record = run(tmp_path, everything())
    bbh = sum(100 * normalise(0.4, number) for number in BBH.values()) / 24
    expected = [50, 10, 100 * 0.35 / 0.75, 100 * 0.4309 / 0.9, 35, bbh]
    assert record.average == pytest.approx(sum(expected) / 6)
    assert (record.tasks["ifeval"].normalised, record.tasks["bbh"].normalised) == (pytest.approx(50), pytest.approx(bbh))
    partial = run(tmp_path, {"ifeval": 0.5, "Average": 12.3})
    assert (partial.tasks["ifeval"].normalised, partial.average, len(partial.missing)) == (50, None, 5)


def test_sub_tasks_may_stand_beside_a_task_that_is_taken_as_a_whole(tmp_path: Path) -> None:
    raw = {"leaderboard_math_hard": 0.2, "leaderboard_math_algebra_hard": 0.3, "leaderboard": 0.4}
    assert run(tmp_path, raw).tasks["math_hard"].normalised == pytest.approx(20)


def test_a_results_file_of_lm_evals(tmp_path: Path) -> None:
    results = {f"leaderboard_{name}": {"acc_norm,none": 0.3, "acc_norm_stderr,none": 0.01} for name in ("gpqa", "gpqa_main")}
    results["leaderboard_ifeval"] = {
        "inst_level_strict_acc,none": 0.6,
        "prompt_level_strict_acc,none": 0.4,
        "prompt_level_loose_acc,none": 1,
    }
    results["leaderboard_mmlu_pro"] = {"acc,none": 0.5309}
    results |= {f"leaderboard_{name}": {"exact_match,none": 0.25} for name in ("math_hard", "math_algebra_hard", "arc_challenge")}
    results["leaderboard"] = {"acc,none": 0.5}
    results["hellaswag"] = {"acc,none": 0.5}
    assert run(tmp_path, results).tasks == run(tmp_path, {"results": results, "config": {}}).tasks
    found = run(tmp_path, results).tasks
    assert {name: round(score.normalised, 2) for name, score in found.items()} == {
        "gpqa": 6.67,
        "ifeval": 50.0,
        "math_hard": 25.0,
        "mmlu_pro": 47.88,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gpqa": 31.0}, "gpqa: 31.0 is no fraction"),
        ({"gpqa": "0.3"}, "gpqa: '0.3' is no fraction"),
        ({"gpqa": float("nan")}, "gpqa: nan is no fraction"),
        ({"gpqa": 0.3, "leaderboard_gpqa": 0.4}, "gpqa: given twice"),
        ({"bbh": 0.3}, "bbh: no raw score of its sub-task bbh_boolean_expressions; the leaderboard normalises each of 24"),
        ({"gpqa_diamond": 0.3}, "gpqa: no raw score; the leaderboard takes the whole of its sub-tasks"),
        ({"ifeval_inst_level_strict_acc": 0.3}, "ifeval: no raw score; the leaderboard takes its prompt_level_strict_acc and"),
        ({"hellaswag": 0.3}, "hellaswag: no task of the leaderboard"),
        ([], "a JSON list; give a mapping"),
        ({}, "no scores"),
    ],
)
def test_wrong_files_end_in_one_line(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(StudyError) as error:
        run(tmp_path, content)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
