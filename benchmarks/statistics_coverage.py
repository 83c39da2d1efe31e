"""How often intervals cover a planted truth, and how often tests find an effect that is not there; prints a table.

    python benchmarks/statistics_coverage.py [--repeats 1000] [--seed 0] [--only WORD]

Items have a difficulty and runs have luck, as real ones do: an answer is right with probability logistic(ability + luck of the seed
- difficulty), and part of an item's chance is shared by all checkpoints and arms. Coverage should be 95 %, false positives and
racing errors at most 5 %; `+-` is two standard errors of the simulation. A row marked with * lies outside.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sftstudy import stats
from sftstudy.config import Race
from sftstudy.race import looks, race
from sftstudy.stats import Array, ItemScores
from sftstudy.stats.equivalence import Effect, equivalence, relevance, superiority
from sftstudy.stats.meta import pool
from sftstudy.stats.peaks import Curves, optimism, ratio_to_peak, samples_to_peak
from sftstudy.stats.power import Question, needed
from sftstudy.stats.ranks import rank_correlation

ALPHA = 0.05


@dataclass(frozen=True)
class Row:
    """One line: `at_least` is for coverage, otherwise the share should be at most the nominal one; None where none is promised."""

    what: str
    setting: str
    nominal: float | None
    hits: int
    repeats: int
    at_least: bool = False


def main() -> None:
    """Run all simulations whose name has the word, and print a line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="simulations whose name has this in it")
    arguments = parser.parse_args()
    print(f"{'what':<42} {'setting':<44} {'nominal':>8} {'seen':>7} {'+-':>6}")
    for simulation in SIMULATIONS:
        if arguments.only in simulation.__name__:
            began = time.process_time()
            for row in simulation(arguments.repeats, np.random.default_rng(arguments.seed)):
                print(line(row), flush=True)
            print(f"  ({simulation.__name__}: {time.process_time() - began:.0f} s of CPU)", flush=True)


def line(row: Row) -> str:
    """A row as text, with a mark if it breaks its promise by more than the simulation's error."""
    share = row.hits / row.repeats
    error = 2 * math.sqrt(max(share * (1 - share), 1 / row.repeats) / row.repeats)
    nominal = row.nominal
    broken = nominal is not None and (share + error < nominal if row.at_least else share - error > nominal)
    printed = "" if nominal is None else f"{nominal:.1%}"
    return f"{row.what:<42} {row.setting:<44} {printed:>8} {share:>7.1%} {error:>6.1%}{' *' if broken else ''}"


# --- items, seeds and arms -------------------------------------------------------------------------------------------


def draw_items(rng: np.random.Generator, num_items: int, clusters: int = 1) -> Array:
    """Difficulties; items of one cluster share most of theirs."""
    shared = np.repeat(rng.normal(size=math.ceil(num_items / clusters)), clusters)[:num_items]
    return shared if clusters == 1 else shared + rng.normal(scale=0.5, size=num_items)


def draw_arm(
    rng: np.random.Generator, difficulty: Array, ability: float, num_seeds: int, *, luck: float = 0.15, shared: Array | None = None
) -> Array:
    """Right or wrong, seeds x items. `shared` is a uniform number per item that half of the answers hang on, in every arm."""
    chance = 1 / (1 + np.exp(-(ability + rng.normal(scale=luck, size=(num_seeds, 1)) - difficulty)))
    own = rng.uniform(size=chance.shape)
    if shared is not None:
        own = np.where(rng.uniform(size=chance.shape) < 0.5, shared, own)
    return (own < chance).astype(float)


def truth(ability: float, *, luck: float = 0.15, clusters: int = 1) -> float:
    """Expected score over items and seeds."""
    spread = math.sqrt(1 + luck**2 + (0.25 if clusters > 1 else 0))
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(weights @ (1 / (1 + np.exp(-(ability + spread * points)))) / weights.sum())


def scores(values: Array, tasks: tuple[str, ...] | None = None, clusters: tuple[str, ...] | None = None) -> ItemScores:
    """An arm of these values."""
    items = tuple(map(str, range(values.shape[1])))
    return ItemScores(tuple(range(len(values))), items, tasks or ("t",) * len(items), clusters or items, values)


# --- simulations -----------------------------------------------------------------------------------------------------


def intervals_of_means(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Mean scores: few and many items, one and several seeds, near the floor, clusters, macro averages."""
    for num_items, num_seeds, ability in (
        (100, 1, 0),
        (1000, 1, 0),
        (100, 1, -4),
        (200, 2, 0),
        (200, 3, 0),
        (1000, 3, 0),
        (200, 5, -2),
    ):
        expected, hits = truth(ability, luck=0.15 if num_seeds > 1 else 0.0), 0
        for _ in range(repeats):
            values = draw_arm(rng, draw_items(rng, num_items), ability, num_seeds, luck=0.15 if num_seeds > 1 else 0.0)
            found = stats.estimate(scores(values), "fraction")
            hits += found is not None and found.low is not None and found.high is not None and found.low <= expected <= found.high
        yield Row(
            "interval of a mean", f"{num_items} items, {num_seeds} seeds, mean {expected:.2f}", 0.95, hits, repeats, at_least=True
        )
    expected, hits, blind = truth(0, luck=0, clusters=2), 0, 0
    for _ in range(repeats):
        same = np.repeat(rng.uniform(size=80), 2)
        values = draw_arm(rng, draw_items(rng, 160, clusters=2), 0, 1, luck=0, shared=same)
        for clusters in (tuple(str(n // 2) for n in range(160)), None):
            found = stats.estimate(scores(values, clusters=clusters), "fraction")
            assert found is not None
            assert found.low is not None
            assert found.high is not None
            covered = found.low <= expected <= found.high
            hits, blind = hits + (covered and clusters is not None), blind + (covered and clusters is None)
    yield Row("interval of a mean", "80 questions of 2 turns, clustered", 0.95, hits, repeats, at_least=True)
    yield Row("  the same, clusters ignored", "80 questions of 2 turns", None, blind, repeats)
    sizes, abilities = (150, 40, 10), (0.0, 1.0, -1.0)
    tasks = tuple(str(task) for task, size in enumerate(sizes) for _ in range(size))
    expected, hits = float(np.mean([truth(ability, luck=0) for ability in abilities])), 0
    for _ in range(repeats):
        values = np.concatenate(
            [draw_arm(rng, draw_items(rng, s), a, 1, luck=0) for s, a in zip(sizes, abilities, strict=True)], axis=1
        )
        found = stats.estimate(scores(values, tasks=tasks), "fraction", average="macro")
        hits += found is not None and found.low is not None and found.high is not None and found.low <= expected <= found.high
    yield Row("interval of a macro average", "tasks of 150, 40 and 10 items", 0.95, hits, repeats, at_least=True)


def rare_scores(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Means, paired differences and equivalence where hardly an item stands out, in tasks of equal and of unequal size."""
    for sizes, shares in (
        ((100,), (0.01,)),
        ((20, 20, 20, 20), (0.97, 0.01, 0.01, 0.01)),
        ((10, 990), (0.1, 0.0)),
        ((10, 990), (0.1, 0.004)),
        ((150, 40, 10), (0.01, 0.02, 0.05)),
    ):
        tasks = tuple(str(task) for task, size in enumerate(sizes) for _ in range(size))
        expected, chance = float(np.mean(shares)), np.repeat(shares, sizes)
        covered = differs = alike = 0
        for _ in range(repeats):
            values = scores((rng.uniform(size=chance.size) < chance).astype(float)[None], tasks)
            mean = stats.estimate(values, "fraction", average="macro")
            found = stats.paired_difference(values, scores(np.zeros((1, chance.size)), tasks), unit="fraction", average="macro")
            assert mean is not None
            assert mean.low is not None
            assert mean.high is not None
            assert found is not None
            covered += mean.low <= expected <= mean.high
            differs += found.low <= expected <= found.high
            alike += equivalence(Effect(found.value, found.error, found.freedom, found.p), expected) <= ALPHA
        setting = f"{'/'.join(map(str, sizes))} items, {'/'.join(f'{share:.1%}' for share in shares)}"
        yield Row("interval of a macro average, rare", setting, 0.95, covered, repeats, at_least=True)
        yield Row("interval of a paired difference, rare", setting, 0.95, differs, repeats, at_least=True)
        yield Row("TOST at its margin: false equivalence", setting, ALPHA, alike, repeats)


def needed_items(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """How often the test passes with as many items as `needed` names, of 50 of which few or many differ; 80 % are meant."""
    margin = 0.05
    for num_differing in (0, 1, 3, 10, 20):
        gaps = np.where(np.arange(50) < num_differing, (-1.0) ** np.arange(50), 0.0)
        pilot = stats.paired_difference(scores(gaps[None]), scores(np.zeros((1, 50))), unit="fraction")
        assert pilot is not None
        questions: tuple[tuple[Question, float], ...] = (("direction", margin), ("equivalence", 0.0))
        for question, effect in questions:
            num_items = needed(pilot, margin, question).items
            assert num_items is not None
            share, passed = max(num_differing / 50, effect), 0
            for _ in range(repeats):
                luck = rng.uniform(size=num_items)
                gap = np.where(luck < (share + effect) / 2, 1.0, np.where(luck < share, -1.0, 0.0))
                found = stats.paired_difference(scores(gap[None]), scores(np.zeros((1, num_items))), unit="fraction")
                assert found is not None
                seen = Effect(found.value, found.error, found.freedom, found.p)
                passed += (superiority(seen) if question == "direction" else equivalence(seen, margin)) <= ALPHA
            setting = f"{num_items} items for {num_differing} of 50"
            yield Row(f"power of {question} with the items needed", setting, None, passed, repeats)


def paired_differences(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Two arms on the same items: coverage, false positives, and the power that pairing gives."""
    for num_items, num_seeds, gap in (
        (60, 1, 0.0),
        (1000, 1, 0.0),
        (200, 2, 0.0),
        (1000, 3, 0.0),
        (1000, 1, 0.3),
        (200, 3, 0.3),
        (1000, 3, 0.3),
    ):
        luck = 0.15 if num_seeds > 1 else 0.0
        expected = truth(gap, luck=luck) - truth(0, luck=luck)
        covered = found_it = 0
        for _ in range(repeats):
            difficulty, shared = draw_items(rng, num_items), rng.uniform(size=num_items)
            one, two = (scores(draw_arm(rng, difficulty, ability, num_seeds, luck=luck, shared=shared)) for ability in (gap, 0.0))
            found = stats.paired_difference(one, two, unit="fraction")
            assert found is not None
            covered += found.low <= expected <= found.high
            found_it += found.p <= ALPHA
        setting = f"{num_items} items, {num_seeds} seeds, true {expected:+.3f}"
        yield Row("interval of a paired difference", setting, 0.95, covered, repeats, at_least=True)
        yield Row("paired test: " + ("power" if gap else "false positives"), setting, None if gap else ALPHA, found_it, repeats)


def few_differing_items(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Two checkpoints that hardly differ, where a t interval is too sure of itself."""
    for num_items, share in ((100, 0.01), (400, 0.005), (400, 0.02)):
        covered = false = 0
        for _ in range(repeats):
            base = (rng.uniform(size=num_items) < 0.6).astype(float)
            gap = np.where(rng.uniform(size=num_items) < share, rng.choice([-1.0, 1.0], size=num_items), 0.0)
            other = np.clip(base + gap, 0, 1)
            other = np.where((gap != 0) & (other == base), 1 - base, other)
            found = stats.paired_difference(scores(other[None]), scores(base[None]), unit="fraction")
            assert found is not None
            expected = share * (0.4 - 0.6)
            covered += found.low <= expected <= found.high
            false += equivalence(Effect(found.value, found.error, found.freedom, found.p), abs(expected)) <= ALPHA
        setting = f"{num_items} items, {share:.1%} of them differ"
        yield Row("interval of a paired difference", setting, 0.95, covered, repeats, at_least=True)
        yield Row("TOST at its margin: false equivalence", setting, ALPHA, false, repeats)


def equivalence_tests(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """TOST and the minimum-effect test at their margins, and what they find of arms that are alike."""
    for num_items, num_seeds in ((500, 1), (2000, 1), (500, 3)):
        luck = 0.15 if num_seeds > 1 else 0.0
        margin = truth(0.3, luck=luck) - truth(0, luck=luck)
        counts = {
            "TOST at its margin: false equivalence": 0,
            "beyond the margin: false difference": 0,
            "TOST: power, arms alike": 0,
        }
        for _ in range(repeats):
            for gap in (0.3, 0.0):
                difficulty, shared = draw_items(rng, num_items), rng.uniform(size=num_items)
                one, two = (
                    scores(draw_arm(rng, difficulty, ability, num_seeds, luck=luck, shared=shared)) for ability in (gap, 0.0)
                )
                found = stats.paired_difference(one, two, unit="fraction")
                assert found is not None
                effect = Effect(found.value, found.error, found.freedom, found.p)
                alike = equivalence(effect, margin) <= ALPHA
                if gap:
                    counts["TOST at its margin: false equivalence"] += alike
                    counts["beyond the margin: false difference"] += relevance(effect, margin) <= ALPHA
                else:
                    counts["TOST: power, arms alike"] += alike
        for what, hits in counts.items():
            yield Row(
                what,
                f"{num_items} items, {num_seeds} seeds, margin {margin:.3f}",
                None if "power" in what else ALPHA,
                hits,
                repeats,
            )


def corrected_grids(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Ten checkpoints that are alike: the best against the last, plain and corrected, and Holm over a row of cells."""
    plain = corrected = holm = 0
    for _ in range(repeats):
        difficulty, shared = draw_items(rng, 500), rng.uniform(size=500)
        arms = [scores(draw_arm(rng, difficulty, 0, 1, luck=0, shared=shared)) for _ in range(10)]
        best = max(range(10), key=lambda place: arms[place].values.mean())
        p_last = 1.0 if best == 9 else _p(arms[best], arms[9])
        plain += p_last <= ALPHA
        corrected += p_last * 9 <= ALPHA
        holm += min(stats.holm([_p(arms[0], arm) for arm in arms[1:]])) <= ALPHA
    yield Row("best of 10 against the last: plain p", "10 equal checkpoints", None, plain, repeats)
    yield Row("best of 10 against the last: corrected", "10 equal checkpoints", ALPHA, corrected, repeats)
    yield Row("Holm over 9 comparisons with one arm", "10 equal arms", ALPHA, holm, repeats)


def _p(one: ItemScores, two: ItemScores) -> float:
    found = stats.paired_difference(one, two, unit="fraction")
    assert found is not None
    return found.p


def rank_correlations(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Spearman's rho of a bivariate normal, alone and within groups whose means differ."""
    for num_pairs, strength in ((8, 0.0), (8, 0.7), (20, 0.7), (50, 0.4)):
        expected = 6 / math.pi * math.asin(strength / 2)
        covered = false = 0
        for _ in range(repeats):
            first = rng.normal(size=num_pairs)
            second = strength * first + math.sqrt(1 - strength**2) * rng.normal(size=num_pairs)
            found = rank_correlation(list(first), list(second), seed=int(rng.integers(2**31)))
            assert found is not None
            covered += found.low is not None and found.high is not None and found.low <= expected <= found.high
            false += 2 * found.p <= ALPHA
        yield Row(
            "interval of a rank correlation", f"{num_pairs} pairs, true {expected:.2f}", 0.95, covered, repeats, at_least=True
        )
        yield Row(
            "rank test: " + ("power" if strength else "false positives"),
            f"{num_pairs} pairs, true {expected:.2f}",
            None if strength else ALPHA / 2,
            false,
            repeats,
        )
    within = across = 0
    groups = ["small"] * 4 + ["large"] * 4
    for _ in range(repeats):
        shift = np.array([0.0] * 4 + [3.0] * 4)
        first, second = list(rng.normal(size=8) + shift), list(rng.normal(size=8) + shift)
        for chosen in (groups, None):
            found = rank_correlation(first, second, groups=chosen)
            hit = found is not None and 2 * found.p <= ALPHA
            within, across = within + (hit and chosen is not None), across + (hit and chosen is None)
    yield Row("rank test within groups: false positives", "2 groups of 4 that differ in both", ALPHA / 2, within, repeats)
    yield Row("  the same, groups ignored", "2 groups of 4 that differ in both", None, across, repeats)


def pooled_effects(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Effects of k pairs with and without heterogeneity."""
    for num_effects, tau in ((3, 0.0), (3, 0.05), (6, 0.05), (12, 0.05)):
        covered = false = 0
        for _ in range(repeats):
            errors = rng.uniform(0.01, 0.05, size=num_effects)
            effects = rng.normal(scale=tau, size=num_effects) + rng.normal(size=num_effects) * errors
            found = pool(list(effects), list(errors))
            covered += found.low <= 0 <= found.high
            false += superiority(found.effect) <= ALPHA
        setting = f"{num_effects} pairs, spread {tau:.2f}, errors 0.01 to 0.05"
        yield Row("interval of a pooled effect", setting, 0.95, covered, repeats, at_least=True)
        yield Row("pooled effect: false direction", setting, ALPHA / 2, false, repeats)


def peaks(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Samples to the peak of a hump of ten checkpoints, and the ratio of two arms that are alike."""
    repeats = max(1, repeats // 5)
    for num_items, num_seeds, steep, later in (
        (300, 1, 0.06, 1.0),
        (300, 3, 0.06, 1.0),
        (2000, 3, 0.06, 1.0),
        (2000, 3, 0.3, 1.002),
    ):
        hump = -steep * (np.arange(10) - 5.0) ** 2
        covered = sooner = not_sooner = 0
        for _ in range(repeats):
            difficulty, shared = draw_items(rng, num_items), rng.uniform(size=num_items)
            arms = [_curves(rng, difficulty, hump, num_seeds, shared, spacing) for spacing in (10.0, 10.0 * later)]
            found = samples_to_peak(arms[0], average="micro", seed=int(rng.integers(2**31)), num_draws=300)
            covered += found.low <= 60 <= found.high
            ratio = ratio_to_peak(arms[0], arms[1], average="micro", seed=int(rng.integers(2**31)), num_draws=300)
            assert ratio is not None
            sooner += 2 * ratio.p_sooner <= ALPHA
            not_sooner += 2 * ratio.p_not_sooner <= ALPHA
        setting = f"{num_items} items, {num_seeds} seeds, {'second 0.2 % later' if later > 1 else 'peak at the 6th of 10'}"
        yield Row("interval of samples to the peak", setting, 0.95, covered, repeats, at_least=True)
        yield Row("first arm sooner: false positives", setting, ALPHA, sooner, repeats)
        yield Row("first arm not sooner: false positives", setting, ALPHA, not_sooner, repeats)


def _curves(rng: np.random.Generator, difficulty: Array, abilities: Array, num_seeds: int, shared: Array, spacing: float) -> Curves:
    values = np.stack([draw_arm(rng, difficulty, ability, num_seeds, luck=0.05, shared=shared) for ability in abilities], axis=1)
    names = tuple(map(str, range(len(difficulty))))
    samples = np.tile(spacing * np.arange(1, len(abilities) + 1), (num_seeds, 1))
    return Curves(samples, values, names, ("t",) * len(names), names)


def flattered_peaks(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """The cross-fitted optimism of the best of ten equal checkpoints against its true optimism on half as many items."""
    estimates, true = [], []
    for _ in range(repeats):
        difficulty, shared = draw_items(rng, 400), rng.uniform(size=400)
        values = np.concatenate([draw_arm(rng, difficulty, 0, 1, luck=0, shared=shared) for _ in range(10)])
        half = rng.uniform(size=400) < 0.5
        estimates.append(optimism(values, list(half), ["t"] * 400, average="micro"))
        means = values.mean(axis=1)
        true.append(float(means.max() - means.mean()))
    print(
        f"{'optimism of the best of 10 equal ones':<42} {'400 items':<44} on all items {np.mean(true):.4f}, "
        f"estimated from halves {np.mean(estimates):.4f} (x {np.mean(estimates) / np.mean(true):.2f}, 1.41 expected)"
    )
    yield Row("optimism is negative", "10 equal checkpoints", 0.0, int((np.array(estimates) < -1e-12).sum()), repeats)


def races(repeats: int, rng: np.random.Generator) -> Iterator[Row]:
    """Racing against scoring everything: the share of wrong drops, and what is saved."""
    repeats = max(1, repeats // 5)
    for what, abilities, num_items in (
        ("10 equal", np.zeros(10), 2000),
        ("rising to a plateau", np.minimum(np.arange(20) * 0.1, 1.0), 5000),
        ("one clear winner", np.array([0.0] * 9 + [0.5]), 2000),
    ):
        wrong, saved = 0, []
        for _ in range(repeats):
            difficulty, shared = draw_items(rng, num_items), rng.uniform(size=num_items)
            values = np.concatenate([draw_arm(rng, difficulty, ability, 1, luck=0, shared=shared) for ability in abilities])
            order = rng.permutation(num_items)
            rules, shuffled = Race(error_rate=ALPHA), values[:, order]
            found = race(
                lambda place, number, shuffled=shuffled: shuffled[place, :number],
                np.ones(num_items),
                num_candidates=len(values),
                at=looks(num_items, first=rules.first, growth=rules.growth),
                error_rate=rules.error_rate,
            )
            wrong += int(np.argmax(values.sum(axis=1))) not in found.survivors
            saved.append(found.saved)
        yield Row("racing drops the full choice", f"{what}, {num_items} items: saves {np.mean(saved):.0%}", ALPHA, wrong, repeats)


SIMULATIONS: list[Callable[[int, np.random.Generator], Iterator[Row]]] = [
    intervals_of_means,
    rare_scores,
    needed_items,
    paired_differences,
    few_differing_items,
    equivalence_tests,
    corrected_grids,
    rank_correlations,
    pooled_effects,
    peaks,
    flattered_peaks,
    races,
]


if __name__ == "__main__":
    main()
