"""Early stopping as pure decisions: which runs go on after a rung, by what they showed up to it. Equal runs, equal verdicts.

What competes is a run, or all seeds of a recipe as one. Only what competes in one group (a model, a data set, equal factors) is
compared. A stopped one stays stopped: later rungs decide among those that are still in.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sftstudy.config import MarginRule, MedianRule, PaperRule, RandomRule, ScreenRule
from sftstudy.records import StepMetrics

Call = Literal["go", "stop", "audit"]


@dataclass(frozen=True)
class Signals:
    """What the steps up to a rung showed, as means over their last part."""

    grad_norm: float
    loss: float


@dataclass(frozen=True)
class Candidate:
    """A competitor at a rung."""

    name: str
    group: tuple[str, ...]
    signals: Signals


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a candidate, and its place in its group of `num_rivals`. `audit`: stopped, and trained all the same."""

    call: Call
    place: int
    num_rivals: int


def rung_name(rung: float) -> str:
    """A rung as folders and records call it, such as `0.25`."""
    return f"{rung:g}"


def rung_step(rung: float, *, num_steps: int) -> int:
    """Updates of a stage that are done at a rung."""
    return math.ceil(rung * num_steps - 1e-9)


def signals(steps: Sequence[StepMetrics], *, window: float) -> Signals:
    """Means over the last share `window` of the steps up to a rung, in which every step counts the same."""
    last = steps[len(steps) - max(1, math.ceil(window * len(steps) - 1e-9)) :]
    return Signals(statistics.fmean(step.grad_norm for step in last), statistics.fmean(step.loss for step in last))


def joined(members: Sequence[Signals]) -> Signals:
    """Signals of several seeds as one."""
    return Signals(statistics.fmean(member.grad_norm for member in members), statistics.fmean(member.loss for member in members))


def decide(candidates: Sequence[Candidate], rule: ScreenRule) -> dict[str, Verdict]:
    """Name -> verdict, for candidates that are still in. At least one of each group goes on; ties go by name."""
    verdicts: dict[str, Verdict] = {}
    for group in sorted({candidate.group for candidate in candidates}):
        ranked = sorted((c for c in candidates if c.group == group), key=lambda candidate: (_rank(candidate, rule), candidate.name))
        num_kept = _num_kept(ranked, rule)
        for place, candidate in enumerate(ranked, start=1):
            verdicts[candidate.name] = Verdict("go" if place <= num_kept else "stop", place, len(ranked))
    return verdicts


def audited(stopped: Sequence[str], *, share: float, seed: int) -> list[str]:
    """Those of the stopped that are trained to the end all the same: a share, rounded up, with the smallest hashes."""
    return sorted(stopped, key=lambda name: (_chance(seed, name), name))[: math.ceil(share * len(stopped) - 1e-9)]


def number_kept(share: float, number: int) -> int:
    """How many a share of `number` is: rounded up, and at least one."""
    return max(1, math.ceil(share * number - 1e-9))


def _rank(candidate: Candidate, rule: ScreenRule) -> tuple[float, ...]:
    """Smaller is better."""
    if isinstance(rule, PaperRule):
        return (candidate.signals.grad_norm, -candidate.signals.loss)
    if isinstance(rule, RandomRule):
        return (_chance(rule.seed, candidate.name),)
    value = candidate.signals.loss if rule.signal == "loss" else candidate.signals.grad_norm
    return (value if rule.best == "lowest" else -value,)


def _num_kept(ranked: Sequence[Candidate], rule: ScreenRule) -> int:
    if isinstance(rule, MarginRule):
        best = _rank(ranked[0], rule)[0]
        return sum(_rank(candidate, rule)[0] - best <= rule.margin * abs(best) for candidate in ranked)
    if isinstance(rule, MedianRule):
        values = [_rank(candidate, rule)[0] for candidate in ranked]
        return sum(value <= statistics.median(values) for value in values)
    return number_kept(rule.keep, len(ranked))


def _chance(seed: int, name: str) -> float:
    """A number in [0, 1) that a name draws, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big") / 2**48


# --- what a screen would have cost -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """A competitor that was trained to the end: what it showed at each rung and had cost there, in samples, and its final score."""

    name: str
    group: tuple[str, ...]
    signals: Mapping[float, Signals]
    cost_at: Mapping[float, int]
    cost: int
    final: float


@dataclass(frozen=True)
class Outcome:
    """`savings` is the share of all samples that are not trained, `regret` what the best survivor lacks to the best of all."""

    savings: float
    regret: float
    kept: frozenset[str]


def outcome(histories: Sequence[History], stopped_at: Mapping[str, float]) -> Outcome:
    """What stopping some histories, each at a rung, saves and loses. Scores count upwards."""
    total = sum(history.cost for history in histories)
    spent = sum(history.cost_at[stopped_at[history.name]] if history.name in stopped_at else history.cost for history in histories)
    kept = [history for history in histories if history.name not in stopped_at]
    best = max(history.final for history in histories)
    return Outcome(
        savings=1 - spent / total,
        regret=best - max(history.final for history in kept),
        kept=frozenset(history.name for history in kept),
    )


def replay(histories: Sequence[History], rule: ScreenRule, *, rungs: Sequence[float]) -> Outcome:
    """The outcome of a rule that decides at each rung among those that are still in."""
    alive = list(histories)
    stopped_at: dict[str, float] = {}
    for rung in rungs:
        verdicts = decide([Candidate(history.name, history.group, history.signals[rung]) for history in alive], rule)
        stopped_at |= {name: rung for name, verdict in verdicts.items() if verdict.call == "stop"}
        alive = [history for history in alive if history.name not in stopped_at]
    return outcome(histories, stopped_at)


def replay_asha(histories: Sequence[History], *, keep: float, rungs: Sequence[float], rule: ScreenRule) -> Outcome:
    """Asynchronous successive halving, with the histories in the order in which they come to the first rung.

    Whenever one arrives, whoever is among the best share `keep` of those that have arrived, rounded down, goes on and comes to the
    next rung in that order. Nobody waits for a rung to fill, so some go on that a full rung would have stopped. `rule` ranks.
    """
    coming = list(histories)
    stopped_at: dict[str, float] = {}
    for rung in rungs:
        promoted: list[History] = []
        arrived: dict[tuple[str, ...], list[Candidate]] = {}
        by_name = {history.name: history for history in coming}
        for history in coming:
            rivals = arrived.setdefault(history.group, [])
            rivals.append(Candidate(history.name, history.group, history.signals[rung]))
            rivals.sort(key=lambda candidate: (_rank(candidate, rule), candidate.name))
            best = [by_name[candidate.name] for candidate in rivals[: math.floor(keep * len(rivals) + 1e-9)]]
            promoted += [rival for rival in best if rival not in promoted]
        for group, rivals in sorted(arrived.items()):  # where so few came that nobody was promoted, the best goes on
            if not any(history.group == group for history in promoted):
                promoted.append(by_name[rivals[0].name])
        names = {history.name for history in promoted}
        stopped_at |= {name: rung for name in by_name if name not in names}
        coming = promoted
    return outcome(histories, stopped_at)
