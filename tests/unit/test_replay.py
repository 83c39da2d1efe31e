"""The replay of early stopping from records of finished runs: who competes, what is counted, and what is drawn."""

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from sftstudy.config import Replay
from sftstudy.paths import Layout
from sftstudy.records import write_text
from sftstudy.screen import History, Signals
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.early import competitors, history
from sftstudy.tables.replay import CHANCE, CONTENDERS, SHARES, replay_pair
from sftstudy.tables.replay_files import replay_study
from table_toys import Tree

PAIR = ("m", "d")


def looks(**settings: Any) -> Replay:
    return Replay(**{"benchmark": "exam", "rungs": [0.25, 0.5], "num_draws": 20, **settings})


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Four recipes of two seeds; the n-th has loss n, norm 10 - n and n of its 8 items right."""
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    made.base({"exam": [0.0] * 8})
    for number in range(1, 5):
        for seed in (1, 2):
            right = [1.0] * number + [0.0] * (8 - number)
            steps = [(10 * step, number + 10.0 * seed, 10.0 - number) for step in range(1, 9)]
            factors = {"effective_batch_size": 10, "learning_rate": number % 2}
            made.stage(f"r{number}", {"ckpt01": (80, 80, {"exam": right})}, seed=seed, steps=steps, factors=factors)
    return made


def results_of(tree: Tree) -> Any:
    study = tree.study().model_copy(update={"replay": looks()})
    collect_scores([study], layout=tree.layout)
    return load_results(study, layout=tree.layout)


def test_seeds_together_are_one_competitor_with_their_means(tree: Tree) -> None:
    results = results_of(tree)
    together = competitors(results.study, looks(group_by=["learning_rate"]), PAIR)
    assert [(found.name, found.group) for found in together] == [("r1", ("1",)), ("r2", ("0",)), ("r3", ("1",)), ("r4", ("0",))]
    past = history(results, looks(), PAIR, together[1], layout=tree.layout)
    assert past == History("r2", ("0",), dict.fromkeys((0.25, 0.5), Signals(8.0, 17.0)), {0.25: 40, 0.5: 80}, 160, 0.25)
    apart = competitors(results.study, looks(seeds="apart"), PAIR)
    assert [found.name for found in apart[:2]] == ["r1/seed1", "r1/seed2"]
    assert history(results, looks(), PAIR, apart[1], layout=tree.layout) == History(
        "r1/seed2", (), dict.fromkeys((0.25, 0.5), Signals(9.0, 21.0)), {0.25: 20, 0.5: 40}, 80, 0.125
    )


def test_who_is_not_finished_or_lacks_a_score_has_no_history(tree: Tree) -> None:
    scores = tree.layout.stage_results(*PAIR, "r1", 2, "01-stacked") / "scores" / "exams" / "all.json"
    scores.unlink()
    training = tree.layout.stage_results(*PAIR, "r2", 1, "01-stacked") / "training.json"
    training.unlink()
    results = results_of(tree)
    planned = competitors(results.study, looks(), PAIR)
    found = [history(results, looks(), PAIR, competitor, layout=tree.layout) for competitor in planned]
    assert [past and past.name for past in found] == [None, None, "r3", "r4"]


def test_a_signal_that_tells_beats_chance_and_one_that_misleads_loses() -> None:
    chance = random.Random(3)
    runs = [
        History(f"r{final:.3f}", (), {0.1: Signals(1 - final, final)}, {0.1: 10}, 100, final)
        for final in (chance.random() for _ in range(12))
    ]
    lines = {(line.rule, line.keep): line for line in replay_pair(PAIR, runs, looks(rungs=[0.1], num_draws=200))}
    assert len(lines) == len(CONTENDERS) * len(SHARES) + 1
    for keep in SHARES:
        paper, loss, luck = (lines[rule, keep].regret for rule in ("low norm (paper)", "low loss", "random"))
        assert paper == 0 < luck < loss, keep
        better, worse = (lines[rule, keep].excess for rule in ("low norm (paper)", "low loss"))
        assert better is not None
        assert worse is not None
        assert better == pytest.approx(-luck, abs=0.02)  # as many are stopped, so it is compared at the savings of chance
        assert worse == pytest.approx(loss - luck, abs=0.02)
        assert lines[CHANCE, keep].excess is None
        assert lines["low loss", keep].savings == pytest.approx(lines[CHANCE, keep].savings)
        assert lines[CHANCE, keep].savings == pytest.approx(0.9 * (1 - keep), abs=0.08)
    assert 0.5 < lines["random", 0.2].best_stopped < 0.85  # 0.8, and less where the best was drawn more than once


def test_the_replay_is_written_with_the_same_bytes_each_time_and_empty_for_want_of_runs(tree: Tree) -> None:
    study = results_of(tree).study
    folder = tree.layout.study_folder("toy") / "replay"
    made = []
    for _ in range(2):
        replay_study(study, layout=tree.layout)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert set(made[0]) == {"replay.csv", "replay.png", "replay.pdf"}
    assert made[0] == made[1]
    lines = list(csv.DictReader(made[0]["replay.csv"].decode().splitlines()))
    assert {line["rungs"] for line in lines} == {"0.25", "0.5", "0.25 0.5"}
    assert {line["num_competitors"] for line in lines} == {"4"}

    header = tree.layout.scores_csv().read_text().splitlines()[0]
    write_text(tree.layout.scores_csv(), header + "\n")
    replay_study(study, layout=tree.layout)
    assert len((folder / "replay.csv").read_text().splitlines()) == 1
