"""A small study through a real cluster's queue: two nodes with two processes each, from first job to tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkouts import copy_checkout, snakemake
from queue_runs import OVERLAY, PHASED, STAGES
from sftstudy.records import TrainingRecord, read_metrics, read_record


def test_a_screened_phased_run_on_two_nodes_agrees_with_one_machine(undisturbed: Path, tmp_path: Path) -> None:
    assert (undisturbed / "results/studies/cluster/tables/run.md").is_file()
    stopped = (undisturbed / "results/missing.csv").read_text().splitlines()[1:]
    assert [line.split(",")[2] for line in stopped] == ["stopped at rung 0.5"] * len(STAGES)

    alone = copy_checkout(tmp_path / "alone")
    last = str("results" / PHASED / STAGES[-1] / "training.json")
    local = snakemake(alone, last, "-c2", "--config", f"overlay={OVERLAY}")
    assert local.returncode == 0, local.stdout[-3000:]
    for stage, num_attempts in zip(STAGES, (2, 1), strict=True):  # the first one to its rung, then on from there
        record = read_record(undisturbed / "results" / PHASED / stage / "training.json", TrainingRecord)
        assert (record.num_processes, record.num_attempts) == (4, num_attempts)
        together, single = (
            [step.loss for step in read_metrics(root / "results" / PHASED / stage / "metrics.jsonl")]
            for root in (undisturbed, alone)
        )
        assert len(together) > 5
        assert together == pytest.approx(single, rel=1e-4)
