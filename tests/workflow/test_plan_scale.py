"""The benchmark of planning counts what it says: so many scores, and a job for each block of checkpoints."""

from pathlib import Path

import pytest

import plan_scale
from sftstudy.plan import Plan

CONFIG = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize(("per_job", "blocks_per_run"), [(None, 2 * 4), (1, 2 * 20)])
def test_a_generated_study_has_so_many_scores_and_jobs(per_job: int | None, blocks_per_run: int, tmp_path: Path) -> None:
    dry = plan_scale.study(tmp_path, num_scores=200, per_job=per_job)
    plan = Plan.from_config(CONFIG, overlay=tmp_path / "overlay")
    trained = [stage for stage in plan.stages.values() if stage.training]
    assert sum(len(stage.checkpoints) * len(plan.registry.studies["scale"].benchmarks) for stage in trained) == 200
    blocks = sum(len(plan.score_stems(stage, suite)) for stage in trained for suite in plan.suites_of(stage))
    assert blocks == 2 * blocks_per_run
    # a pair of runs: four stages (spec, mixture, training, retention) and two selections; MT-Bench has two jobs a block; the base 3
    once = dry.jobs - (2 * (4 * 4 + 2) + blocks + blocks // 2 + 2 + 1)
    assert 10 < once < 35  # the world, the model, the data, the tables and the specs of all these
