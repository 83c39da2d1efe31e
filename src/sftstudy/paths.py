"""Where every file lies. The only module that builds a path; rules and programs share it.

`results/` holds small records that are kept, `scratch/` what may be deleted. Both are relative to the working directory unless a
`Layout` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BASE_STAGE = "00-base"
BASE_CKPT = "ckpt00"


@dataclass(frozen=True)
class Layout:
    """The two roots, and every path below them. Names are registry names, so a folder listing is a query."""

    results: Path = Path("results")
    scratch: Path = Path("scratch")

    # worlds and models

    def world_record(self, world: str) -> Path:
        """Record of a generated world; its `spec.yaml` lies beside it."""
        return self.results / "worlds" / world / "world.json"

    def world_folder(self, world: str) -> Path:
        """The generated files."""
        return self.scratch / "worlds" / world

    def model_record(self, model: str) -> Path:
        """Record of a base model; its `spec.yaml` lies beside it."""
        return self.results / "models" / model / "model.json"

    def model_folder(self, model: str) -> Path:
        """The base model in Hugging Face layout."""
        return self.scratch / "models" / model

    # data

    def data_record(self, data: str) -> Path:
        """Record of a data set whose rows were all read; its `spec.yaml` lies beside it."""
        return self.results / "validation" / data / "validation.json"

    def overlap_record(self, data: str) -> Path:
        """Record of what a data set shares with the planned benchmarks; its `spec.yaml` lies beside it."""
        return self.results / "overlap" / data / "overlap.json"

    def passport(self, model: str, data: str) -> Path:
        """The page that shows a data set as a model is trained on it."""
        return self.results / "data" / model / data / "passport.html"

    def phase_record(self, model: str, data: str, phase: str) -> Path:
        """Record of a prepared phase; its `spec.yaml` lies beside it."""
        return self.results / "data" / model / data / phase / "phase.json"

    def tokenised_rows(self, key: str) -> Path:
        """Tokenised rows, an Arrow file named by what they were made from; phases and models with equal rows share it."""
        return self.scratch / "tokenised" / f"{key}.arrow"

    # runs

    def run(self, model: str, data: str, recipe: str, seed: int) -> Path:
        """Folder of a run, relative to either root."""
        return Path(f"runs/{model}/{data}/{recipe}/seed{seed}")

    def stage_results(self, model: str, data: str, recipe: str, seed: int, stage: str) -> Path:
        """A stage's records: spec.yaml, data.json, training.json, metrics.jsonl, race.json, selection.json, scores/."""
        return self.results / self.run(model, data, recipe, seed) / stage

    def stage_scratch(self, model: str, data: str, recipe: str, seed: int, stage: str) -> Path:
        """A stage's checkpoints (`ckpt01/`, ...), resume state and attempt logs."""
        return self.scratch / self.run(model, data, recipe, seed) / stage

    def rung(self, stage_results: Path, rung: str) -> Path:
        """A stage's training.json and metrics.jsonl as they were at a rung, and screen.json: whether it goes on."""
        return stage_results / "rungs" / rung

    def all_attempts(self) -> Path:
        """Folder of all attempts. They lie with the records and not under scratch, which may be deleted: what was paid stays."""
        return self.results / "attempts"

    def attempts(self, rule: str, job: Mapping[str, str]) -> Path:
        """Folder of a job's attempts, a record each; `job` are its wildcards."""
        return self.all_attempts().joinpath(rule, *(f"seed{value}" if key == "seed" else value for key, value in job.items()))

    # benchmarks and studies

    def judging_ledger(self, suite: str, judge: str) -> Path:
        """What all jobs of a suite have spent on a judge, if it has a budget."""
        return self.scratch / "judging" / suite / f"{judge.replace('/', '--')}.jsonl"

    def suite_spec(self, suite: str) -> Path:
        """Spec of a suite of benchmarks."""
        return self.results / "suites" / suite / "spec.yaml"

    def suite_record(self, suite: str) -> Path:
        """Record of a suite's tasks and items, fetched and checked."""
        return self.results / "suites" / suite / "suite.json"

    def score_shard(self, key: str) -> Path:
        """A block of scored items, named by all that it depends on; runs and studies with equal weights share it."""
        return self.scratch / "scores" / f"{key}.json"

    def task_index(self, version: str) -> Path:
        """The names of all tasks that come with a version of lm-eval."""
        return self.scratch / "lm-eval" / f"tasks-{version}.json"

    def study_folder(self, study: str) -> Path:
        """A study's `spec.yaml`, tables/, figures/ and summary.txt."""
        return self.results / "studies" / study

    def index(self) -> Path:
        """The page that lists all studies with a report."""
        return self.results / "index.html"

    def screens(self, study: str) -> Path:
        """A study's decisions, `{rung}.json`; what they are made from stands in `spec.yaml` beside them."""
        return self.study_folder(study) / "screens"

    def scores_csv(self) -> Path:
        """The tidy table of all scores."""
        return self.results / "scores.csv"

    def missing_csv(self) -> Path:
        """Records that a table wanted and did not find, or found stale."""
        return self.results / "missing.csv"


def score_stem(stage_results: Path, suite: str, part: str) -> Path:
    """Stem of a score record: `.json` is the record, `.parquet` items; MT-Bench adds `.answers.jsonl` and `.judgments.jsonl`."""
    return stage_results / f"scores/{suite}/{part}"


def race_stem(stage_results: Path) -> Path:
    """Stem of a stage's race: `.json` is the record, `.parquet` the items that were scored in it."""
    return stage_results / "race"


def base_answers(base_results: Path, suite: str) -> Path:
    """MT-Bench answers of an untouched model, which has one checkpoint and so one part."""
    return score_stem(base_results, suite, "part01.answers.jsonl")


def answers_file(stage_scratch: Path, key: str) -> Path:
    """A checkpoint's MT-Bench answers, named by all that they depend on: suites with the same questions share them."""
    return stage_scratch / "answers" / f"{key}.jsonl"
