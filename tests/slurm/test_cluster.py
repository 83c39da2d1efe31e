"""A small study through a real cluster's queue: two nodes with two processes each, from first job to tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkouts import copy_checkout, snakemake
from cluster import Cluster
from queue_runs import OVERLAY, RUN, STAGES, finish, start
from sftstudy.records import TrainingRecord, read_metrics, read_record

TWO_NODES = {"nodes": 2, "processes": 2, "gres": "gpu:2", "device": "cpu", "runtime": 10, "mem_mb": 4000}


def test_a_screened_phased_run_on_two_nodes_agrees_with_one_machine(cluster: Cluster, checkout: Path, tmp_path: Path) -> None:
    finish(start(checkout, train_rung=TWO_NODES, train_stage=TWO_NODES), checkout)
    assert (checkout / "results/studies/cluster/tables/run.md").is_file()
    stopped = (checkout / "results/missing.csv").read_text().splitlines()[1:]
    assert [line.split(",")[2] for line in stopped] == ["stopped at rung 0.5"] * len(STAGES)

    alone = copy_checkout(tmp_path / "alone")
    last = str(RUN / STAGES[-1] / "training.json")
    local = snakemake(alone, last, "-c2", "--config", f"overlay={OVERLAY}")
    assert local.returncode == 0, local.stdout[-3000:]
    for stage, num_attempts in zip(STAGES, (2, 1), strict=True):  # the first one to its rung, then on from there
        record = read_record(checkout / RUN / stage / "training.json", TrainingRecord)
        assert (record.num_processes, record.num_attempts) == (4, num_attempts)
        together, single = (
            [step.loss for step in read_metrics(root / RUN / stage / "metrics.jsonl")] for root in (checkout, alone)
        )
        assert len(together) > 5
        assert together == pytest.approx(single, rel=1e-4)
