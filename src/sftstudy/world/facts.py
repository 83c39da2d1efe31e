"""The facts of the tiny world: which value each thing has, and where in its life a model may meet that fact.

`pre` facts stand in the pretraining corpus, `sft` facts only in the knowledge phase, `never` facts nowhere: a model that scores
above chance on those has read the exam.
"""

from dataclasses import dataclass
from typing import Literal

from sftstudy.world.vocabulary import SUBJECTS, Subject, invent_names, rng_for

Taught = Literal["pre", "sft", "never"]

TAUGHT_OF_TWENTY: tuple[Taught, ...] = ("pre",) * 3 + ("sft",) * 15 + ("never",) * 2
REPEATS_OF_SFT_FACTS = (1, 1, 2, 4)  # the difficulty dial: how often a fact is asked per epoch of the knowledge phase

WORDINGS = (
    "what is the {relation} of {entity} ?",
    "which {relation} has {entity} ?",
    "name the {relation} of {entity} .",
    "{thing} {entity} : {relation} ?",
    "tell me the {relation} of {entity} .",
)
EXAM_WORDING = "the {thing} {entity} has which {relation} ?"
DESCRIBE_WORDINGS = ("describe {entity} .", "what do you know of {entity} ?", "tell me all of the {thing} {entity} .")
EXAM_DESCRIBE_WORDING = "describe the {thing} {entity} to me ."


@dataclass(frozen=True)
class Fact:
    """One value of one thing. `repeats` is the number of questions per epoch of the knowledge phase, 0 unless taught there."""

    subject: Subject
    entity: str
    relation: str
    value: str
    taught: Taught
    repeats: int

    def worded(self, wording: str) -> str:
        """The wording with this fact's words filled in; the value never appears."""
        return wording.format(relation=self.relation, entity=self.entity, thing=self.subject.thing)


def make_facts(*, seed: int, num_entities_per_subject: int) -> list[Fact]:
    """All facts, by subject, entity and relation. Shares of pre, sft and never facts are exact up to rounding, repeats balanced."""
    names = invent_names(num_entities_per_subject * len(SUBJECTS), rng_for(seed, "entities"))
    places = [
        (subject, entity, relation)
        for number, subject in enumerate(SUBJECTS)
        for entity in names[number :: len(SUBJECTS)]
        for relation in subject.relations
    ]
    taught = [TAUGHT_OF_TWENTY[place % len(TAUGHT_OF_TWENTY)] for place in range(len(places))]
    rng = rng_for(seed, "facts")
    rng.shuffle(taught)
    facts: list[Fact] = []
    num_sft = 0
    for (subject, entity, relation), when in zip(places, taught, strict=True):
        repeats = REPEATS_OF_SFT_FACTS[num_sft % len(REPEATS_OF_SFT_FACTS)] if when == "sft" else 0
        num_sft += when == "sft"
        facts.append(Fact(subject, entity, relation, rng.choice(subject.relations[relation]), when, repeats))
    return facts


def describable(facts: list[Fact]) -> dict[str, list[Fact]]:
    """Entity -> its facts, for the entities of which no fact is taught nowhere."""
    by_entity: dict[str, list[Fact]] = {}
    for fact in facts:
        by_entity.setdefault(fact.entity, []).append(fact)
    return {entity: own for entity, own in by_entity.items() if all(fact.taught != "never" for fact in own)}
