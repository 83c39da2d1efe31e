"""Fetches and checks all that a suite of lm-eval benchmarks needs, before any GPU is taken, and records what was found."""

from __future__ import annotations

from sftstudy.config import HarnessSuite
from sftstudy.errors import StudyError
from sftstudy.evaluate.tasks import load_suite, whole
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout
from sftstudy.records import SuiteRecord, provenance, read_record, write_record
from sftstudy.spec import SuiteSpec, digest, spec_hash


def fetch_suite(suite: SuiteSpec, *, layout: Layout) -> SuiteRecord:
    """Load every task of a suite, from its mirror, from files or from the hub, into the cache that scoring reads; write its record.

    Raises StudyError, one line with all faults, for what is missing, gated, unknown, or has other items than its pins say.
    """
    if not isinstance(suite.suite, HarnessSuite):
        raise StudyError(f"suite {suite.name}: its kind is {suite.suite.kind}; only suites of lm-eval tasks are fetched")
    check_worlds(suite.world_hashes, layout)
    exams = load_suite(suite.suite, layout, benchmarks=list(suite.suite.benchmarks), offline=False)
    benchmarks = {name: whole({task: exam.entry for task, exam in tasks.items()}) for name, tasks in exams.items()}
    record = SuiteRecord(
        spec_hash=spec_hash(suite, "fetch_suite"),
        content_hash=digest([[name, entry.model_dump()] for name, entry in benchmarks.items()]),
        benchmarks=benchmarks,
        **provenance("lm-eval", "datasets"),
    )
    write_record(layout.suite_record(suite.name), record)
    return record


def read_suite(suite: SuiteSpec, *, layout: Layout) -> SuiteRecord:
    """The record of a fetched suite. Raises StudyError if it is missing, or was made from another spec or harness than today's."""
    path = layout.suite_record(suite.name)
    record = read_record(path, SuiteRecord)
    installed = provenance("lm-eval")["versions"]["lm-eval"]
    if record.spec_hash != spec_hash(suite, "fetch_suite") or record.versions["lm-eval"] != installed:
        raise StudyError(f"{path}: made from another spec or lm-eval than today's; `snakemake -c1 --forcerun {path}`")
    return record
