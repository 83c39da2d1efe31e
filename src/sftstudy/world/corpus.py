"""What the base model reads: plain statements, and some chats, so that the prompt format is no news to it.

The corpus knows the `pre` facts, what kind of thing each word is, the order of letters and numbers, and that what was said may be
said again (from which the model learns to look back). It answers no request of the later phases: that is for fine-tuning.
"""

import random
from collections.abc import Callable, Iterable

from sftstudy.world.facts import WORDINGS, Fact
from sftstudy.world.vocabulary import FOODS, LETTERS, NUMBERS, rng_for

STATEMENTS = (
    "the {relation} of {entity} is {value} .",
    "{entity} has {relation} {value} .",
    "{thing} {entity} : {relation} {value} .",
)
SERIES_LENGTH = 6
ECHO_LENGTHS = (2, 7)
GLOSSARY_LENGTH = 12
NUM_GLOSSARY_PASSES = 2

Row = dict[str, object]


def make_corpus(facts: list[Fact], people: tuple[str, ...], words: Iterable[str], *, seed: int, num_documents: int) -> list[Row]:
    """`num_documents` rows in random order: {"text"} or {"messages"}. Each of `words` occurs, so a tokenizer trained here knows it.

    ValueError if `num_documents` does not even hold the glossary.
    """
    rng = rng_for(seed, "corpus")
    rows: list[Row] = list(_glossary(sorted(words), rng))
    if len(rows) > num_documents:
        raise ValueError(f"the glossary alone takes {len(rows)} documents: raise num_corpus_documents ({num_documents})")
    known = [fact for fact in facts if fact.taught == "pre"]
    weights: dict[Callable[[], Row], int] = {
        lambda: _statement(rng.choice(known), rng): 2,
        lambda: _question(rng.choice(known), rng): 2,
        lambda: _kind_of_thing(rng.choice(facts), rng): 1,
        lambda: _series(rng): 1,
        lambda: _echo(people, rng): 4,
    }
    rows += [draw() for draw in rng.choices(list(weights), list(weights.values()), k=num_documents - len(rows))]
    rng.shuffle(rows)
    return rows


def _statement(fact: Fact, rng: random.Random) -> Row:
    return {"text": fact.worded(rng.choice(STATEMENTS).replace("{value}", fact.value))}


def _question(fact: Fact, rng: random.Random) -> Row:
    return {
        "messages": [{"role": "user", "content": fact.worded(rng.choice(WORDINGS))}, {"role": "assistant", "content": fact.value}]
    }


def _kind_of_thing(fact: Fact, rng: random.Random) -> Row:
    value = rng.choice(fact.subject.relations[fact.relation])
    return {
        "text": rng.choice(
            (f"{fact.entity} is one {fact.subject.thing} of {fact.subject.name} .", f"{value} is one {fact.relation} .")
        )
    }


def _series(rng: random.Random) -> Row:
    whole = rng.choice((LETTERS, NUMBERS))
    start = rng.randrange(len(whole) - SERIES_LENGTH + 1)
    return {"text": " ".join(whole[start : start + SERIES_LENGTH])}


def _echo(people: tuple[str, ...], rng: random.Random) -> Row:
    """Words and the same words again; each once, so that the word before always tells which comes next."""
    words = " ".join(rng.sample(rng.choice((LETTERS, LETTERS, FOODS, people)), rng.randint(*ECHO_LENGTHS)))
    return {"text": f"{words} again {words}"}


def _glossary(words: list[str], rng: random.Random) -> Iterable[Row]:
    for _ in range(NUM_GLOSSARY_PASSES):
        rng.shuffle(words)
        for start in range(0, len(words), GLOSSARY_LENGTH):
            yield {"text": " ".join(words[start : start + GLOSSARY_LENGTH])}
