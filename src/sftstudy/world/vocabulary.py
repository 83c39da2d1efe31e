"""The words of the tiny world: what there is to know, and whom and what to talk about.

English words carry the meaning and invented names the facts, so a model can know a fact only from our data. A word is whatever
stands between two blanks; punctuation stands alone. Letters leave out "a" and "i", which are words.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LETTERS = tuple("bcdefghjklmn")
NUM_TOPICS_PER_RELATION = 8
NUMBERS = tuple(str(number) for number in range(41))
SCENERY = _words(
    "bright dark cold warm quiet loud soft hard slow swift deep high wide narrow old young dry wet sweet bitter rough smooth "
    "empty full golden pale hidden open broken whole wild tame"
)
CLOSINGS = _words("farewell always forever tonight tomorrow again soon yours")
ROLES = _words(
    "pirate wizard captain nurse judge clown guard cook knight teacher pilot ghost spy baker's-boy king's-fool night-watch"
)
FEELINGS = _words("happy afraid hungry tired lost lonely curious jealous bored ill rich brave")
FOODS = _words("bread cheese soup rice beans plums figs nuts cake eggs fish pears")


@dataclass(frozen=True)
class Subject:
    """A school subject: its things are described by three relations, each with its own closed set of twelve values."""

    name: str
    thing: str
    field: str
    relations: dict[str, tuple[str, ...]]


SUBJECTS = (
    Subject(
        "botany",
        "plant",
        "stem",
        {
            "colour": _words("red blue green white yellow purple orange brown pink grey black silver"),
            "soil": _words("clay sand loam peat chalk silt gravel moss mud ash rock humus"),
            "scent": _words("mint rose lemon honey pepper vanilla cedar smoke anise ginger apple onion"),
        },
    ),
    Subject(
        "mineralogy",
        "mineral",
        "stem",
        {
            "shape": _words("cube needle plate prism sphere star fan ring shell thread leaf cone"),
            "origin": _words("lava lake cave desert glacier reef swamp delta ridge crater canyon spring"),
            "use": _words("glass paint steel paper soap glue salt wire brick lamp clock mirror"),
        },
    ),
    Subject(
        "history",
        "ruler",
        "humanities",
        {
            "emblem": _words("lion eagle bear wolf stag horse swan fox boar raven ox dragon"),
            "deed": _words("bridge temple wall harbour library road tower canal school market garden mill"),
            "ally": _words("merchants farmers sailors monks smiths hunters weavers miners potters scribes bakers masons"),
        },
    ),
    Subject(
        "music",
        "song",
        "humanities",
        {
            "instrument": _words("drum flute harp lute horn violin bell cello organ whistle trumpet piano"),
            "mood": _words("calm sad proud merry bold shy angry gentle solemn tender eager weary"),
            "feast": _words("harvest wedding solstice coronation birth funeral sowing victory return voyage truce eclipse"),
        },
    ),
)
TOPICS = tuple(value for subject in SUBJECTS for values in subject.relations.values() for value in values[:NUM_TOPICS_PER_RELATION])

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"


def rng_for(seed: int, *use: str) -> random.Random:
    """A generator of its own for each use, so that resizing one part of the world leaves the others as they were."""
    return random.Random("/".join((str(seed), *use)))


def invent_names(count: int, rng: random.Random) -> tuple[str, ...]:
    """`count` different two-syllable names; ValueError if there are not so many."""
    syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
    names = [first + second for first in syllables for second in syllables if first != second and first + second not in RESERVED]
    if count > len(names):
        raise ValueError(f"asked for {count} names, but only {len(names)} exist: lower num_entities_per_subject")
    return tuple(rng.sample(names, count))


def _all_words(groups: Sequence[Sequence[str]]) -> frozenset[str]:
    return frozenset(word for group in groups for word in group)


RESERVED = _all_words(
    (
        SCENERY,
        CLOSINGS,
        ROLES,
        FEELINGS,
        FOODS,
        ("take", "name", "five", "nine"),
        *(v for s in SUBJECTS for v in s.relations.values()),
    )
)
