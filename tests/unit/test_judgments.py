import json
from pathlib import Path

import pytest

from sftstudy.errors import StudyError
from sftstudy.evaluate.judgments import CATEGORIES, category_of, summarize_judgments


def line(question: int, turn: int, judgment: str, score: float, *, model: str = "m", **other) -> dict:
    prompt = "single-math-v1" if category_of(question) in ("math", "reasoning", "coding") else "single-v1"
    judge = ["gpt-4", prompt + ("-multi-turn" if turn == 2 else "")]
    given = {"question_id": question, "model": model, "judge": judge, "user_prompt": "p", "judgment": judgment, "score": score}
    return given | {"turn": turn, "tstamp": 0.0} | other


def write(folder: Path, *lines: dict) -> Path:
    path = folder / "gpt-4_single.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def test_means_per_turn_and_category_of_several_models(tmp_path):
    lines = [
        line(q, t, f"Rating: [[{q % 10 + t}]]", q % 10 + t, model=m) for m in ("b", "a") for q in range(81, 161) for t in (1, 2)
    ]
    lines += [line(81, 1, "Rating: [[10]]", 10, model="one")]
    found = summarize_judgments(write(tmp_path, *lines))
    assert (list(found.models), found.judges) == (["a", "b", "one"], ["gpt-4"])
    of = found.models["a"]
    assert (of.overall.mean, of.turns["1"].mean, of.turns["2"].mean) == (6.0, 5.5, 6.5)
    assert {name: ratings.num_judged for name, ratings in of.categories.items()} == dict.fromkeys(CATEGORIES, 20)
    assert (of.overall.lowest, of.overall.highest, of.overall.num_unparsable, of.fastchat.mean) == (6.0, 6.0, 0, 6.0)
    assert (found.models["one"].overall.mean, found.models["one"].overall.stderr) == (10.0, None)


def test_scores_come_from_the_text(tmp_path):
    path = write(
        tmp_path,
        line(81, 1, "Rating: [[8]]", 3),
        line(81, 2, "Rating: [5]", 5),
        line(82, 1, "I give it an eight.", 8),
        line(82, 2, "$ERROR$", -1),
    )
    of = summarize_judgments(path).models["m"]
    assert (of.overall.mean, of.overall.num_judged, of.overall.num_unparsable) == (6.5, 4, 2)
    assert (of.overall.lowest, of.overall.highest) == ((8 + 5 + 1 + 1) / 4, (8 + 5 + 10 + 10) / 4)
    assert (of.num_scores_corrected, of.fastchat.mean) == (2, (3 + 5 + 8) / 3)


def test_of_repeated_lines_the_first_counts_and_fastchats_mean_stands_beside_it(tmp_path):
    first, again = line(81, 1, "[[8]]", 8), line(81, 1, "[[2]]", 2)
    of = summarize_judgments(write(tmp_path, first, first, again, line(81, 2, "[[4]]", 4))).models["m"]
    assert (of.overall.mean, of.overall.num_judged) == (6.0, 2)
    assert (of.num_lines, of.num_duplicates, of.num_repeats) == (4, 1, 1)
    assert (of.fastchat.mean, of.fastchat.turns) == ((8 + 8 + 2 + 4) / 4, {"1": 6.0, "2": 4.0})


def test_repeated_judgings_of_our_own_files_all_count(tmp_path):
    lines = [line(81, 1, "[[8]]", 8, repeat=0), line(81, 1, "[[2]]", 2, repeat=1), line(81, 2, "[[0]]", -1, status="unparsable")]
    of = summarize_judgments(write(tmp_path, *lines)).models["m"]
    assert (of.overall.mean, of.overall.num_judged, of.overall.num_unparsable, of.num_repeats) == (5.0, 3, 1, 0)


def test_the_mean_is_what_fastchats_own_program_prints(tmp_path):
    import os
    import subprocess
    import sys

    lines = [line(q, t, f"[[{(q * 7 + t) % 10 + 1}]]", (q * 7 + t) % 10 + 1) for q in range(81, 161) for t in (1, 2)]
    lines[3] |= {"judgment": "no rating", "score": -1}
    lines[4] |= {"judgment": "[[0]]", "score": 0}  # off the scale: FastChat averages it all the same
    folder = tmp_path / "data/mt_bench/model_judgment"
    folder.mkdir(parents=True)
    of = summarize_judgments(write(folder, *lines)).models["m"]
    program = [sys.executable, "-m", "fastchat.llm_judge.show_result"]
    shown = subprocess.run(program, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True).stdout
    printed = [float(row.split()[-1]) for row in shown.splitlines() if row.startswith("m ")]
    assert printed == pytest.approx([of.turns["1"].mean, of.turns["2"].mean, of.overall.mean], abs=1e-6)
    assert (of.num_off_scale, of.overall.num_unparsable, of.num_scores_corrected) == (1, 1, 0)


def test_categories_may_come_from_a_questions_file(tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question_id": 7, "category": "cooking", "turns": ["a", "b"]}) + "\n")
    path = write(tmp_path, line(7, 1, "[[8]]", 8), line(8, 1, "[[6]]", 6))
    assert {name: of.mean for name, of in summarize_judgments(path).models["m"].categories.items()} == {"other": 7.0}
    named = summarize_judgments(path, questions=questions).models["m"].categories
    assert {name: of.mean for name, of in named.items()} == {"cooking": 8.0, "other": 6.0}


def test_what_is_no_judgment_file_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"nowhere.jsonl: missing; name a file of FastChat's format"):
        summarize_judgments(tmp_path / "nowhere.jsonl")
    with pytest.raises(StudyError, match=r"gpt-4_single.jsonl: line 2: judge: "):
        summarize_judgments(write(tmp_path, line(81, 1, "[[8]]", 8), {"question_id": 81, "model": "m", "judgment": "", "score": 1}))
    with pytest.raises(StudyError, match="holds no judgments"):
        summarize_judgments(write(tmp_path))
