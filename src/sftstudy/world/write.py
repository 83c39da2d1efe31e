"""Writes the tiny world: corpus, three phases of chats, three benchmarks; from one seed, checked before a byte is written."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sftstudy.world.chats import make_instruct, make_knowledge, make_skills
from sftstudy.world.checks import check_vocabulary, find_leaks, words_of
from sftstudy.world.corpus import make_corpus
from sftstudy.world.dialogues import Dialogue, make_cast
from sftstudy.world.exams import make_leaderboard, make_mmlu, make_mt_bench
from sftstudy.world.facts import make_facts

Row = Mapping[str, object]


def write_world(
    folder: Path,
    *,
    seed: int,
    num_entities_per_subject: int,
    num_corpus_documents: int,
    num_instruct_chats: int,
    num_skill_chats: int,
    num_items_per_skill: int,
    num_questions_per_category: int,
) -> dict[str, int]:
    """File name -> number of rows. The same arguments give the same bytes; each file is written whole or not at all.

    The knowledge phase has no size of its own: its questions follow from the facts, three to an entity.
    ValueError if the sizes cannot be met, if a word is unknown to the corpus, or if an exam question stands in the training data.
    """
    facts = make_facts(seed=seed, num_entities_per_subject=num_entities_per_subject)
    cast = make_cast(seed=seed, taken={fact.entity for fact in facts})
    questions, references = make_mt_bench(facts, cast, seed=seed, num_questions=num_questions_per_category)
    exams: dict[str, Sequence[Row]] = {
        **{f"mmlu_{part}.jsonl": rows for part, rows in make_mmlu(facts, seed=seed).items()},
        **{
            f"leaderboard_{skill}.jsonl": rows
            for skill, rows in make_leaderboard(cast, seed=seed, num_items=num_items_per_skill).items()
        },
        "mt_questions.jsonl": questions,
    }
    chats: dict[str, Sequence[Row]] = {
        "instruct.jsonl": _as_messages(make_instruct(cast, seed=seed, num_chats=num_instruct_chats)),
        "knowledge.jsonl": _as_messages(make_knowledge(facts, seed=seed)),
        "skills.jsonl": _as_messages(make_skills(cast, seed=seed, num_chats=num_skill_chats)),
    }
    asked_and_answered = {**chats, **exams, "mt_references.jsonl": references}
    words = words_of(row for rows in asked_and_answered.values() for row in rows)
    corpus = make_corpus(facts, cast.people, words, seed=seed, num_documents=num_corpus_documents)

    check_vocabulary(words_of(corpus), asked_and_answered)
    if leaks := find_leaks(exams, {"corpus.jsonl": corpus, **chats}):
        raise ValueError(f"{len(leaks)} exam questions leak into the training data, the first: {leaks[0]}")

    folder.mkdir(parents=True, exist_ok=True)
    files = {"corpus.jsonl": corpus, **asked_and_answered}
    for file, rows in files.items():
        _write_rows(folder / file, rows)
    return {file: len(rows) for file, rows in files.items()}


def _as_messages(dialogues: list[Dialogue]) -> list[Row]:
    return [
        {
            "messages": [
                message
                for request, answer in dialogue.turns
                for message in ({"role": "user", "content": request}, {"role": "assistant", "content": answer})
            ]
        }
        for dialogue in dialogues
    ]


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(partial, path)
