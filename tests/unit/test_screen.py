"""Early stopping as pure decisions: who goes on by each rule, and what a rule would have saved and lost."""

import itertools
import random
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sftstudy import config
from sftstudy.records import StepMetrics
from sftstudy.screen import Candidate, History, Signals, audited, decide, outcome, replay, replay_asha, rung_step, signals

RULES: Any = TypeAdapter(config.ScreenRule)


def candidates(*shown: tuple[str, float, float], group: str = "") -> list[Candidate]:
    return [Candidate(name, (group,), Signals(grad_norm=norm, loss=loss)) for name, norm, loss in shown]


def going(found: list[Candidate], **rule: Any) -> str:
    return "".join(sorted(name for name, verdict in decide(found, RULES.validate_python(rule)).items() if verdict.call == "go"))


FOUR = candidates(("a", 1.0, 2.0), ("b", 1.0, 3.0), ("c", 0.5, 1.0), ("d", 9.0, 0.5))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"kind": "paper", "keep": 0.5}, "bc"),
        ({"kind": "paper", "keep": 0.51}, "abc"),
        ({"kind": "paper", "keep": 0.01}, "c"),
        ({"kind": "top", "signal": "loss", "keep": 0.5}, "cd"),
        ({"kind": "top", "signal": "loss", "best": "highest", "keep": 0.5}, "ab"),
        ({"kind": "top", "signal": "grad-norm", "keep": 0.5}, "ac"),
        ({"kind": "margin", "signal": "grad-norm", "margin": 1.0}, "abc"),
        ({"kind": "margin", "signal": "loss", "best": "highest", "margin": 0.5}, "ab"),
        ({"kind": "median", "signal": "loss"}, "cd"),
        ({"kind": "median", "signal": "grad-norm"}, "abc"),
    ],
)
def test_each_rule_lets_those_go_on_that_it_says(rule: dict[str, Any], expected: str) -> None:
    orders = list(itertools.permutations(FOUR))
    assert {going(list(order), **rule) for order in orders} == {expected}
    assert len(orders) == 24


def test_groups_do_not_compete_and_each_keeps_one() -> None:
    found = [*candidates(("a", 1, 1), ("b", 2, 1), group="16"), *candidates(("c", 8, 1), ("d", 9, 1), group="64")]
    assert going(found, kind="paper", keep=0.5) == "ac"
    verdicts = decide(found, config.PaperRule(kind="paper", keep=0.5))
    assert [(verdicts[name].place, verdicts[name].num_rivals) for name in "abcd"] == [(1, 2), (2, 2), (1, 2), (2, 2)]


def test_equal_candidates_go_by_name_and_chance_by_seed() -> None:
    equal = candidates(*((name, 1.0, 1.0) for name in "dcba"))
    assert going(equal, kind="paper", keep=0.5) == "ab"
    picks = {going(equal, kind="random", keep=0.5, seed=seed) for seed in range(40)}
    assert len(picks) == 6  # all pairs of four


def test_an_audit_is_a_stable_share_rounded_up() -> None:
    names = [f"run{number}" for number in range(10)]
    chosen = audited(names, share=0.25, seed=1)
    assert len(chosen) == 3
    assert audited(list(reversed(names)), share=0.25, seed=1) == chosen
    assert audited([name for name in names if name != names[0]], share=0.34, seed=1)[:2] == [c for c in chosen if c != names[0]][:2]
    assert audited([], share=0.5, seed=1) == []


def test_signals_are_means_over_the_last_part_of_the_steps() -> None:
    steps = [
        StepMetrics(
            step=number, samples_seen=number, loss=number, grad_norm=10 * number, learning_rate=0, num_supervised_tokens=1,
            num_tokens=1, time_s=1, tokens_per_s=1,
        )
        for number in range(1, 5)
    ]  # fmt: skip
    assert signals(steps, window=0.5) == Signals(grad_norm=35, loss=3.5)
    assert signals(steps, window=1) == Signals(grad_norm=25, loss=2.5)
    assert signals(steps[:1], window=0.1) == Signals(grad_norm=10, loss=1)
    assert [rung_step(rung, num_steps=30) for rung in (0.1, 0.11, 0.999)] == [3, 4, 30]


def history(name: str, loss: float, final: float, *, cost: int = 100) -> History:
    return History(name, (), {0.1: Signals(1, loss), 0.5: Signals(1, loss)}, {0.1: cost // 10, 0.5: cost // 2}, cost, final)


def test_a_replay_counts_what_is_saved_and_what_is_lost() -> None:
    runs = [history("a", 1, 0.5), history("b", 2, 0.9), history("c", 3, 0.4), history("d", 4, 0.1)]
    half = RULES.validate_python({"kind": "top", "signal": "loss", "keep": 0.5})
    once = replay(runs, half, rungs=[0.1])
    assert (once.savings, once.regret, once.kept) == (pytest.approx(0.45), 0.0, {"a", "b"})
    twice = replay(runs, half, rungs=[0.1, 0.5])
    assert (twice.savings, twice.regret, twice.kept) == (pytest.approx(1 - (10 + 10 + 50 + 100) / 400), pytest.approx(0.4), {"a"})
    assert outcome(runs, {}).savings == outcome(runs, {}).regret == 0


def test_asha_lets_on_whoever_was_good_when_it_came() -> None:
    runs = [history(name, loss, 0) for loss, name in enumerate("abcdefgh")]
    half = RULES.validate_python({"kind": "top", "signal": "loss", "keep": 0.5})
    full = replay(runs, half, rungs=[0.1]).kept
    assert replay_asha(runs, keep=0.5, rungs=[0.1], rule=half).kept == full  # the best come first: nobody slips through
    assert replay_asha(runs[::-1], keep=0.5, rungs=[0.1], rule=half).kept > full
    shuffled = random.Random(1).sample(runs, len(runs))
    assert replay_asha(shuffled, keep=0.5, rungs=[0.1], rule=half).kept >= full
    assert len(replay_asha(runs[:1], keep=0.5, rungs=[0.1, 0.5], rule=half).kept) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [({"rungs": [0.5, 0.1]}, "ascending"), ({"rungs": [0.1234]}, "three digits"), ({"group_by": ["learning"]}, "no training key")],
)
def test_what_a_screen_looks_at_is_checked(change: dict[str, Any], words: str) -> None:
    settings = {"benchmark": "exam", "rungs": [0.1], "rule": {"kind": "paper"}}
    assert config.Screen.model_validate(settings).rule == config.PaperRule(kind="paper", keep=0.5)
    with pytest.raises(ValidationError, match=words):
        config.Screen.model_validate(settings | change)
