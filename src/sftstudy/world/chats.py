"""The three phases of fine-tuning data, in the order of the paper: 00 instruct, 05 knowledge, 10 skills."""

from sftstudy.world.dialogues import INSTRUCT_MIX, SKILLS_MIX, Cast, Dialogue, Draw, draw_dialogues
from sftstudy.world.facts import DESCRIBE_WORDINGS, WORDINGS, Fact, describable
from sftstudy.world.vocabulary import rng_for


def make_instruct(cast: Cast, *, seed: int, num_chats: int) -> list[Dialogue]:
    """Chats that follow a request, shuffled."""
    return _mixed(INSTRUCT_MIX, cast, seed=seed, phase="instruct", num_chats=num_chats)


def make_skills(cast: Cast, *, seed: int, num_chats: int) -> list[Dialogue]:
    """Chats that work something out, shuffled."""
    return _mixed(SKILLS_MIX, cast, seed=seed, phase="skills", num_chats=num_chats)


def make_knowledge(facts: list[Fact], *, seed: int) -> list[Dialogue]:
    """Each sft fact as often as its `repeats`, in as many wordings; and each thing described once, one relation asked again."""
    rng = rng_for(seed, "knowledge")
    dialogues = [
        Dialogue(fact.entity, ((fact.worded(wording), fact.value),))
        for fact in facts
        for wording in rng.sample(WORDINGS, fact.repeats)
    ]
    for entity, own in describable(facts).items():
        request = own[0].worded(rng.choice(DESCRIBE_WORDINGS))
        dialogues.append(Dialogue(entity, ((request, " ".join(fact.value for fact in own)), follow_up(rng.choice(own)))))
    rng.shuffle(dialogues)
    return dialogues


def follow_up(fact: Fact) -> tuple[str, str]:
    """The second turn after a description: one relation again, in a sentence."""
    return f"and its {fact.relation} alone ?", f"its {fact.relation} is {fact.value}"


def _mixed(mix: dict[Draw, int], cast: Cast, *, seed: int, phase: str, num_chats: int) -> list[Dialogue]:
    """`num_chats` dialogues in the proportions of `mix`, to the chat: what rounding leaves over goes to the first kinds."""
    total = sum(mix.values())
    counts = {draw: num_chats * weight // total for draw, weight in mix.items()}
    for draw in list(mix)[: num_chats - sum(counts.values())]:
        counts[draw] += 1
    dialogues = [
        dialogue
        for draw, count in counts.items()
        for dialogue in draw_dialogues(draw, cast, rng_for(seed, phase, draw.__name__), count=count, for_exam=False)
    ]
    rng_for(seed, phase).shuffle(dialogues)
    return dialogues
