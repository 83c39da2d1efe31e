"""The generated world is the same every time, teaches every word that it asks with, and keeps its exams to itself."""

import json
from collections import Counter
from pathlib import Path

import pytest

from sftstudy.world.checks import check_vocabulary, find_leaks, requests_and_answers
from sftstudy.world.facts import EXAM_WORDING, make_facts
from sftstudy.world.write import write_world

SIZES = {
    "num_entities_per_subject": 20,
    "num_corpus_documents": 800,
    "num_instruct_chats": 100,
    "num_skill_chats": 120,
    "num_items_per_skill": 15,
    "num_questions_per_category": 4,
}
SUBJECTS = ("botany", "mineralogy", "history", "music")
CHATS = ("instruct.jsonl", "knowledge.jsonl", "skills.jsonl")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, seed=3, **SIZES)
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_same_arguments_give_the_same_bytes_and_another_seed_others(world: Path, tmp_path: Path) -> None:
    counts = write_world(tmp_path / "again", seed=3, **SIZES)
    write_world(tmp_path / "other", seed=4, **SIZES)
    assert len(counts) == 15
    for file in counts:
        assert (tmp_path / "again" / file).read_bytes() == (world / file).read_bytes()
        assert (tmp_path / "other" / file).read_bytes() != (world / file).read_bytes()


def test_counts_are_those_asked_for_and_those_on_disk(world: Path, tmp_path: Path) -> None:
    counts = write_world(tmp_path, seed=3, **SIZES)
    assert counts == {path.name: len(rows(path)) for path in world.iterdir()}
    assert counts["corpus.jsonl"] == 800
    assert counts["instruct.jsonl"] == 100
    assert counts["skills.jsonl"] == 120
    assert counts["leaderboard_sort.jsonl"] == 15
    assert counts["mt_questions.jsonl"] == counts["mt_references.jsonl"] == 8 * 4
    assert sum(counts[f"mmlu_{part}.jsonl"] for part in (*SUBJECTS, "control")) == 4 * 20 * 3


def test_resizing_one_part_leaves_the_exams_as_they_were(world: Path, tmp_path: Path) -> None:
    counts = write_world(tmp_path, seed=3, **{**SIZES, "num_skill_chats": 60, "num_corpus_documents": 700})
    exams = [file for file in counts if file.startswith(("mmlu", "leaderboard", "mt"))]
    assert len(exams) == 11
    assert all((tmp_path / file).read_bytes() == (world / file).read_bytes() for file in exams)


def test_no_chat_stands_twice_in_a_phase(world: Path) -> None:
    for file in CHATS:
        lines = (world / file).read_text().splitlines()
        assert len(set(lines)) == len(lines) > 0


def test_every_word_is_in_the_corpus(world: Path) -> None:
    known = {word for row in rows(world / "corpus.jsonl") for text in requests_and_answers(row) for word in text.split()}
    files = {path.name: rows(path) for path in world.glob("*.jsonl")}
    assert len(files) == 15
    check_vocabulary(known, files)
    with pytest.raises(ValueError, match=r"exam\.jsonl uses the word 'zebra'"):
        check_vocabulary(known, {"exam.jsonl": [{"question": "the zebra", "choices": ["red"], "answer": 0}]})


@pytest.mark.parametrize(
    "leak",
    [
        {"text": "how now ?"},
        {"messages": [{"role": "user", "content": "good day ."}, {"role": "user", "content": "how now ?"}]},
    ],
)
def test_a_planted_leak_is_found(leak: dict) -> None:
    clean = {"text": "how now ? not so ."}
    exams = {"mmlu_x.jsonl": [{"question": "how now ?", "choices": ["red"], "answer": 0}]}
    assert find_leaks(exams, {"corpus.jsonl": [clean]}) == []
    assert find_leaks(exams, {"corpus.jsonl": [clean, leak]}) == ["'how now ?' of mmlu_x.jsonl stands in corpus.jsonl"]


def test_a_leaked_first_turn_counts_and_a_later_one_does_not() -> None:
    exams = {"mt_questions.jsonl": [{"question_id": 81, "category": "math", "turns": ["how many ?", "and now ?"]}]}
    assert find_leaks(exams, {"corpus.jsonl": [{"text": "and now ?"}]}) == []
    assert len(find_leaks(exams, {"corpus.jsonl": [{"text": "how many ?"}]})) == 1


def test_the_answer_stands_in_each_place_equally_often(world: Path) -> None:
    for subject in (*SUBJECTS, "control"):
        items = rows(world / f"mmlu_{subject}.jsonl")
        places = Counter(item["answer"] for item in items)
        assert max(places.values()) - min(places.values()) <= 1
        assert all(len(set(item["choices"])) == 4 for item in items)


def test_facts_taught_nowhere_are_asked_in_the_control_alone(world: Path) -> None:
    facts = make_facts(seed=3, num_entities_per_subject=20)
    never = [(fact.entity, fact.relation, fact.value) for fact in facts if fact.taught == "never"]
    assert len(never) == len(facts) // 10
    questions = {part: {item["question"] for item in rows(world / f"mmlu_{part}.jsonl")} for part in (*SUBJECTS, "control")}
    assert questions["control"] == {fact.worded(EXAM_WORDING) for fact in facts if fact.taught == "never"}
    assert not questions["control"] & set().union(*(questions[subject] for subject in SUBJECTS))
    training = [set(" ".join(requests_and_answers(row)).split()) for file in ("corpus.jsonl", *CHATS) for row in rows(world / file)]
    assert len(training) > 1000
    assert not [words for words in training for fact in never if words.issuperset(fact)]


def test_references_answer_all_questions_in_fastchat_format(world: Path) -> None:
    questions, references = rows(world / "mt_questions.jsonl"), rows(world / "mt_references.jsonl")
    assert [question["question_id"] for question in questions] == [reference["question_id"] for reference in references]
    assert Counter(Counter(question["category"] for question in questions).values()) == {4: 8}
    assert all(len(question["turns"]) == 2 for question in questions)
    assert all(len(reference["choices"][0]["turns"]) == 2 for reference in references)


def test_a_world_too_small_for_its_exams_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="raise num_entities_per_subject"):
        write_world(tmp_path, seed=3, **{**SIZES, "num_entities_per_subject": 1})
    with pytest.raises(ValueError, match="raise num_corpus_documents"):
        write_world(tmp_path, seed=3, **{**SIZES, "num_corpus_documents": 10})
    assert not list(tmp_path.iterdir())
