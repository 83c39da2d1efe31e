"""The three benchmarks of the tiny world, in the formats of their models: MMLU, a generative leaderboard, MT-Bench."""

import random

from sftstudy.world.chats import follow_up
from sftstudy.world.dialogues import LEADERBOARD_SKILLS, MT_RULE_CATEGORIES, Cast, Dialogue, draw_dialogues
from sftstudy.world.facts import EXAM_DESCRIBE_WORDING, EXAM_WORDING, Fact, describable
from sftstudy.world.vocabulary import SUBJECTS, rng_for

NUM_CHOICES = 4
MT_CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
FIRST_QUESTION_ID = 81  # as in MT-Bench

Row = dict[str, object]


def make_mmlu(facts: list[Fact], *, seed: int) -> dict[str, list[Row]]:
    """Part -> items: a part per subject with its pre and sft facts, and "control" with the facts taught nowhere.

    The wording is new to the model; wrong choices are values of the same relation; each place holds the answer equally often.
    """
    parts = {subject.name: [fact for fact in facts if fact.subject is subject and fact.taught != "never"] for subject in SUBJECTS}
    parts["control"] = [fact for fact in facts if fact.taught == "never"]
    return {part: _multiple_choice(own, rng_for(seed, "mmlu", part)) for part, own in parts.items()}


def _multiple_choice(facts: list[Fact], rng: random.Random) -> list[Row]:
    places = [number % NUM_CHOICES for number in range(len(facts))]
    rng.shuffle(places)
    rows: list[Row] = []
    for fact, place in zip(facts, places, strict=True):
        choices = rng.sample([value for value in fact.subject.relations[fact.relation] if value != fact.value], NUM_CHOICES - 1)
        choices.insert(place, fact.value)
        rows.append({"question": fact.worded(EXAM_WORDING), "subject": fact.subject.name, "choices": choices, "answer": place})
    return rows


def make_leaderboard(cast: Cast, *, seed: int, num_items: int) -> dict[str, list[Row]]:
    """Skill -> items about reserved inputs, of graded length, so that half a skill scores half."""
    return {
        skill: [
            {"question": dialogue.turns[0][0], "answer": dialogue.turns[0][1]}
            for dialogue in draw_dialogues(draw, cast, rng_for(seed, "leaderboard", skill), count=num_items, for_exam=True)
        ]
        for skill, draw in LEADERBOARD_SKILLS.items()
    }


def make_mt_bench(facts: list[Fact], cast: Cast, *, seed: int, num_questions: int) -> tuple[list[Row], list[Row]]:
    """Questions and references in FastChat's format, `num_questions` per category, each with a reference for both turns."""
    questions: list[Row] = []
    references: list[Row] = []
    for category in MT_CATEGORIES:
        rng = rng_for(seed, "mt", category)
        if category in MT_RULE_CATEGORIES:
            dialogues = draw_dialogues(MT_RULE_CATEGORIES[category], cast, rng, count=num_questions, for_exam=True)
        else:
            dialogues = _descriptions([fact for fact in facts if fact.subject.field == category], rng, num_questions)
        for dialogue in dialogues:
            question_id = FIRST_QUESTION_ID + len(questions)
            requests, answers = zip(*dialogue.turns, strict=True)
            questions.append({"question_id": question_id, "category": category, "turns": list(requests)})
            references.append(
                {
                    "question_id": question_id,
                    "answer_id": f"reference-{question_id}",
                    "model_id": "world",
                    "choices": [{"index": 0, "turns": list(answers)}],
                    "tstamp": 0,
                }
            )
    return questions, references


def _descriptions(facts: list[Fact], rng: random.Random, count: int) -> list[Dialogue]:
    things = describable(facts)
    if len(things) < count:
        raise ValueError(f"only {len(things)} things can be described, {count} wanted: raise num_entities_per_subject")
    return [
        Dialogue(entity, ((own[0].worded(EXAM_DESCRIBE_WORDING), " ".join(fact.value for fact in own)), follow_up(rng.choice(own))))
        for entity, own in rng.sample(sorted(things.items()), count)
    ]
