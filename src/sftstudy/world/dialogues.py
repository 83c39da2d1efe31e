"""The kinds of dialogue that follow a rule: each function draws one, and the right answers come with it.

The same functions make training chats and exams. What separates them is `held_out`: a fifth of all *inputs* (letters, numbers, the
people and things that a request is about), chosen by hash, is for exams only, whatever is asked about them.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from sftstudy.world.vocabulary import CLOSINGS, FEELINGS, FOODS, LETTERS, ROLES, SCENERY, TOPICS, invent_names, rng_for

HELD_OUT_ONE_IN = 5
NUM_PEOPLE = 24
MIN_WORDS, MAX_WORDS = 2, 5
MAX_ADDEND = 12
NUM_SCENES_PER_TOPIC = 3
MAX_TRIES_PER_DIALOGUE = 200


@dataclass(frozen=True)
class Dialogue:
    """User and assistant turns in alternation, as (request, answer) pairs, and the input that the requests are about."""

    about: str
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cast:
    """What a world's own people and topics are like; fixed by the seed, to be learnt from the chats."""

    people: tuple[str, ...]
    scenes: dict[str, tuple[str, ...]]
    remedies: dict[tuple[str, str], tuple[str, str]]


Draw = Callable[[random.Random, Cast], Dialogue]


def make_cast(*, seed: int, taken: set[str]) -> Cast:
    """The people (none named as in `taken`), each topic's scenery, what each role says to each feeling."""
    rng = rng_for(seed, "cast")
    names = [name for name in invent_names(NUM_PEOPLE + len(taken), rng) if name not in taken]
    return Cast(
        people=tuple(names[:NUM_PEOPLE]),
        scenes={topic: tuple(rng.sample(SCENERY, NUM_SCENES_PER_TOPIC)) for topic in TOPICS},
        remedies={(role, feeling): (rng.choice(FOODS), rng.choice(CLOSINGS)) for role in ROLES for feeling in FEELINGS},
    )


def held_out(about: str) -> bool:
    """Whether this input is reserved for exams."""
    return int(hashlib.sha256(about.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def draw_dialogues(draw: Draw, cast: Cast, rng: random.Random, *, count: int, for_exam: bool) -> list[Dialogue]:
    """`count` different dialogues about inputs that are (for_exam) or are not reserved; ValueError if the kind has not so many."""
    found: dict[tuple[tuple[str, str], ...], Dialogue] = {}
    for _ in range(count * MAX_TRIES_PER_DIALOGUE):
        if len(found) == count:
            break
        dialogue = draw(rng, cast)
        if held_out(dialogue.about) == for_exam:
            found.setdefault(dialogue.turns, dialogue)
    if len(found) < count:
        raise ValueError(f"{draw.__name__} has fewer than {count} different dialogues: ask for fewer")
    return list(found.values())


# --- instruct: follow the request -------------------------------------------------------------------------------------


def writing(rng: random.Random, cast: Cast) -> Dialogue:
    """A poem or letter to someone, on a topic with the scenery that belongs to it; then one on another topic."""
    topic, other = rng.sample(TOPICS, 2)
    person = rng.choice(cast.people)
    form, opening = rng.choice((("poem", "for"), ("letter", "dear")))

    def text(subject: str) -> str:
        return f"{opening} {person} , {' '.join(cast.scenes[subject])} {subject}"

    return Dialogue(
        f"{topic} {person}",
        ((f"write a {form} on {topic} for {person} .", text(topic)), (f"now write it on {other} .", text(other))),
    )


def roleplay(rng: random.Random, cast: Cast) -> Dialogue:
    """Speaks as a role to someone with a feeling; then the feeling changes."""
    role, person = rng.choice(ROLES), rng.choice(cast.people)
    feeling, later = rng.sample(FEELINGS, 2)

    def speech(felt: str) -> str:
        food, closing = cast.remedies[role, felt]
        return f"{person} , take {food} , {closing}"

    return Dialogue(
        f"{role} {person} {feeling}",
        (
            (f"you are the {role} . {person} is {feeling} . speak .", speech(feeling)),
            (f"now {person} is {later} .", speech(later)),
        ),
    )


def extraction(rng: random.Random, cast: Cast) -> Dialogue:
    """Finds what one of three people likes; then lists it for all."""
    people = rng.sample(cast.people, 3)
    foods = rng.sample(FOODS, 3)
    asked = rng.randrange(3)
    story = " . ".join(f"{person} likes {food}" for person, food in zip(people, foods, strict=True))
    return Dialogue(
        story,
        (
            (f"{story} . what likes {people[asked]} ?", f"{people[asked]} likes {foods[asked]}"),
            ("list all they like .", " ".join(foods)),
        ),
    )


def repeating(rng: random.Random, cast: Cast) -> Dialogue:
    """The same words again."""
    words = " ".join(rng.sample(FOODS + cast.people, rng.randint(MIN_WORDS, MAX_WORDS)))
    return Dialogue(words, ((f"repeat {words} .", words),))


# --- skills: work something out ---------------------------------------------------------------------------------------


def _letters(rng: random.Random) -> list[str]:
    return rng.sample(LETTERS, rng.randint(MIN_WORDS, MAX_WORDS))


def _reversed(letters: list[str]) -> str:
    return " ".join(reversed(letters))


def _sorted(letters: list[str]) -> str:
    return " ".join(sorted(letters))


def _doubled(letters: list[str]) -> str:
    return " ".join(letter for letter in letters for _ in range(2))


OPERATIONS: dict[str, Callable[[list[str]], str]] = {
    "reverse": _reversed,
    "sort": _sorted,
    "double": _doubled,
}


def _operation(name: str, rng: random.Random) -> Dialogue:
    letters = _letters(rng)
    return Dialogue(" ".join(letters), ((f"{name} {' '.join(letters)} .", OPERATIONS[name](letters)),))


def reversing(rng: random.Random, cast: Cast) -> Dialogue:
    """Letters from last to first."""
    return _operation("reverse", rng)


def sorting(rng: random.Random, cast: Cast) -> Dialogue:
    """Letters in the order of the alphabet."""
    return _operation("sort", rng)


def doubling(rng: random.Random, cast: Cast) -> Dialogue:
    """Each letter twice."""
    return _operation("double", rng)


def math(rng: random.Random, cast: Cast) -> Dialogue:
    """A word problem of addition with its step written out; then one of subtraction on its result."""
    person, food = rng.choice(cast.people), rng.choice(FOODS)
    first, second = rng.randint(1, MAX_ADDEND), rng.randint(1, MAX_ADDEND)
    total = first + second
    eaten = rng.randint(1, min(MAX_ADDEND, total))
    return Dialogue(
        f"{first} + {second}",
        (
            (f"{person} has {first} {food} and gets {second} . how many ?", f"{first} + {second} = {total}"),
            (f"{person} eats {eaten} . how many ?", f"{total} - {eaten} = {total - eaten}"),
        ),
    )


def reasoning(rng: random.Random, cast: Cast) -> Dialogue:
    """Three people by age from two clues in either order; then the youngest."""
    oldest, middle, youngest = rng.sample(cast.people, 3)
    clues = [f"{oldest} is older than {middle}", f"{middle} is older than {youngest}"]
    rng.shuffle(clues)
    return Dialogue(
        f"{oldest} {middle} {youngest}",
        (
            (f"{' . '.join(clues)} . order them .", f"{oldest} {middle} {youngest}"),
            ("who is the youngest ?", f"{youngest} is the youngest"),
        ),
    )


def coding(rng: random.Random, cast: Cast) -> Dialogue:
    """What a line of code prints; then another line on the same variable."""
    letters = _letters(rng)
    first, second = rng.sample(sorted(OPERATIONS), 2)
    return Dialogue(
        " ".join(letters),
        (
            (f"x = {' '.join(letters)} ; print {first} ( x )", OPERATIONS[first](letters)),
            (f"print {second} ( x )", OPERATIONS[second](letters)),
        ),
    )


INSTRUCT_MIX: dict[Draw, int] = {writing: 5, roleplay: 6, extraction: 5, repeating: 4}
SKILLS_MIX: dict[Draw, int] = {reversing: 6, sorting: 6, doubling: 4, math: 3, reasoning: 2, coding: 3}
LEADERBOARD_SKILLS: dict[str, Draw] = {"repeat": repeating, "reverse": reversing, "sort": sorting, "double": doubling}
MT_RULE_CATEGORIES: dict[str, Draw] = {
    "writing": writing,
    "roleplay": roleplay,
    "reasoning": reasoning,
    "math": math,
    "coding": coding,
    "extraction": extraction,
}
