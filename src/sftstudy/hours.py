"""What was paid for: hours of GPUs (on a CPU: of processes) per rule, run and study, useful and wasted ones apart.

This is the account of what a study took, failed, killed and requeued attempts included. The ledger in `ledger.py` is another thing:
what one run had cost at a checkpoint, by which claims compare arms at equal budgets.

An attempt is one start of a program. Its time is cut into three parts, each times the devices that it was given:

- useful: units of work (a training step, a block of scored items, a batch of answers, a judge's reply) that stand in a record of
  today's spec, or in state from which a later attempt goes on;
- wasted: units that were done again or whose result is gone, and of an attempt that failed or was killed everything after the last
  moment at which its work was safe, which is all of it if none ever was; also an allocation in which no program of ours began;
- overhead: the rest, which is start-up, loading, saving and waiting.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import ValidationError

from sftstudy import spec
from sftstudy.accounting import Allocation, ask_sacct
from sftstudy.doctor import JOB_PREFIX
from sftstudy.paths import Layout, race_stem, score_stem
from sftstudy.plan import Plan
from sftstudy.records import AttemptRecord
from sftstudy.screen import rung_name
from sftstudy.timesheet import SEEN_AT_MOST_S

DAY_S = 86400.0
"""SLURM is asked about so long before the first attempt: a job may have come to none."""

UNSEEN_S = 4 * SEEN_AT_MOST_S
"""An attempt that wrote no end and was not seen for so long has been killed."""

CLOCKS_DIFFER_S = 10.0
"""By how much a node's clock may lag behind the accounting's."""

TRAINING_RULES = ("pretrain_model", "train_rung", "train_stage")
"""Those that go on from a state, which belongs to one spec."""

RULES = (*TRAINING_RULES, "race_checkpoints", "score_harness", "answer_mt_bench", "judge_mt_bench")
"""Rules that may hold GPUs, in the order of the data flow. All others run on CPUs in seconds or minutes and leave no attempts."""

UNKNOWN = "unknown"
"""Rule of an allocation in which nothing of ours began, where the accounting keeps no comments."""

Unit = Literal["GPU", "process"]
End = Literal["finished", "stopped", "out of time", "failed", "killed", "running", "never began"]
ENDS: tuple[End, ...] = ("finished", "stopped", "out of time", "failed", "killed", "running", "never began")


@dataclass(frozen=True)
class Spent:
    """Seconds of devices, or of one: allocated = useful + wasted + overhead."""

    useful: float = 0.0
    wasted: float = 0.0
    overhead: float = 0.0

    @property
    def allocated(self) -> float:
        """All of it."""
        return self.useful + self.wasted + self.overhead

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.useful + other.useful, self.wasted + other.wasted, self.overhead + other.overhead)

    def times(self, factor: float) -> Spent:
        """All parts."""
        return Spent(self.useful * factor, self.wasted * factor, self.overhead * factor)


@dataclass(frozen=True)
class Charge:
    """What one attempt cost, in seconds of its devices. `source` says who measured how long it held them."""

    rule: str
    job: Mapping[str, str]
    end: End
    unit: Unit
    spent: Spent
    source: Literal["attempts", "sacct"]


@dataclass(frozen=True)
class Row:
    """All that was spent in one unit on the jobs of a rule for one stage and suite. `job` has KEYS, empty where none applies."""

    rule: str
    job: Mapping[str, str]
    unit: Unit
    ends: Mapping[End, int]
    spent: Spent
    source: str
    studies: tuple[str, ...]

    @property
    def num_attempts(self) -> int:
        """Starts of programs, and allocations in which none began."""
        return sum(self.ends.values())


KEYS = ("model", "data", "recipe", "seed", "stage", "suite")


@dataclass(frozen=True)
class Hours:
    """All that the page shows. `note`: why SLURM does not say. `uncounted`: rule -> finished jobs without an attempt."""

    studies: tuple[str, ...]
    rows: list[Row]
    charges: list[Charge]
    note: str
    uncounted: Mapping[str, int]


# --- attempts ----------------------------------------------------------------------------------------------------------


def read_attempts(layout: Layout) -> list[AttemptRecord]:
    """All attempts that are on file, in the order of their starts. A broken file is one that cannot be counted."""
    found = []
    for path in sorted(layout.all_attempts().rglob("*.json")):
        try:
            found.append(AttemptRecord.model_validate_json(path.read_bytes()))
        except ValidationError:
            continue
    return sorted(found, key=lambda one: (one.started, one.host, one.process))


def work_of(rule: str, job: Mapping[str, str]) -> tuple[str, ...]:
    """What a job works on. A stage and its rungs are one work: each goes on where the one before ended."""
    if rule in ("train_rung", "train_stage"):
        return ("training", *(value for key, value in job.items() if key != "rung"))
    return (rule, *job.values())


def split(attempts: Sequence[AttemptRecord], *, published: str | None, now: float) -> list[tuple[End, Spent]]:
    """How the attempts at one work ended, in the order of their starts, and what each did in its time, in seconds of one device.

    `published` is the spec hash of the record that came of it, if there is one.
    """
    todays = published or (attempts[-1].spec_hash if attempts else None)
    found: list[tuple[End, Spent]] = []
    for number, attempt in enumerate(attempts):
        later = attempts[number + 1 :]
        end: End = attempt.outcome or ("killed" if later or now - attempt.started - attempt.elapsed_s > UNSEEN_S else "running")
        is_whole = end in ("finished", "running")
        safe_units = attempt.units if is_whole else attempt.safe_units
        safe_work_s = attempt.work_s if is_whole else attempt.safe_work_s
        safe_after_s = attempt.elapsed_s if is_whole else min(attempt.safe_after_s, attempt.elapsed_s)
        again = _done_again_from(attempt, later, todays)
        kept = min(max(again - attempt.units_before, 0), safe_units) / safe_units if safe_units else float(again == math.inf)
        useful = safe_work_s * kept
        if useful == 0 and (attempt.work_s or not is_whole):
            found.append((end, Spent(wasted=attempt.elapsed_s)))
            continue
        wasted = attempt.elapsed_s - safe_after_s + safe_work_s - useful
        found.append((end, Spent(useful, wasted, safe_after_s - safe_work_s)))
    return found


def _done_again_from(attempt: AttemptRecord, later: Sequence[AttemptRecord], todays: str | None) -> float:
    """The unit from which on an attempt's work was done again, or is of no use: a later one began there. Infinite if none did.

    What another spec than today's trained is of no use. Answers and judgments are filed by what was asked: those that an attempt by
    today's spec found there still count, whatever spec asked first.
    """
    began = [one.units_before for one in later if one.units and one.spec_hash == attempt.spec_hash]
    if attempt.spec_hash != todays:
        found = [one.units_before for one in later if one.spec_hash == todays and (one.units or one.units_before)]
        began += [0] if attempt.rule in TRAINING_RULES or not found else found
    return min(began, default=math.inf)


def record_of(rule: str, job: Mapping[str, str], layout: Layout) -> Path:
    """The record in which a job's work ends; MT-Bench's answers and judgments end in the same one."""
    if rule == "pretrain_model":
        return layout.model_record(job["model"])
    stage = layout.stage_results(job["model"], job["data"], job["recipe"], int(job["seed"]), job["stage"])
    if rule == "race_checkpoints":
        return race_stem(stage).with_suffix(".json")
    return score_stem(stage, job["suite"], f"{job['part']}.json") if "suite" in job else stage / "training.json"


def _published(path: Path) -> str | None:
    """Spec hash of a record; None before there is one."""
    try:
        return str(json.loads(path.read_bytes())["spec_hash"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


# --- what was held ------------------------------------------------------------------------------------------------------


def charge(
    attempts: Sequence[AttemptRecord],
    allocations: Sequence[Allocation] | None,
    *,
    published: Mapping[tuple[str, ...], str | None],
    now: float,
    folders: Collection[str] = (),
    jobs_by_comment: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType({}),
) -> list[Charge]:
    """What every attempt cost; SLURM's own time and GPUs where it kept account, else the attempts' records.

    `allocations` are asked of SLURM; None without its accounting. Of those without an attempt, ours are the ones that the profile
    named and that were submitted in one of `folders`; `jobs_by_comment` says what Snakemake calls the planned ones there. An
    allocation without an attempt and without GPUs is a rule's that leaves none.
    """
    within = _allocation_of(attempts, allocations or [])
    # one that was killed held its devices until SLURM says so
    seen = [
        replace_elapsed(attempt, within[number]) if number in within and attempt.outcome is None else attempt
        for number, attempt in enumerate(attempts)
    ]
    works: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, attempt in enumerate(seen):
        works[work_of(attempt.rule, attempt.job)].append(number)
    parts: dict[int, tuple[End, Spent]] = {}
    for work, numbers in works.items():
        parts |= dict(zip(numbers, split([seen[one] for one in numbers], published=published.get(work), now=now), strict=True))
    members: dict[Allocation, list[int]] = defaultdict(list)
    for number, allocation in within.items():
        members[allocation].append(number)

    found = []
    for number, attempt in enumerate(seen):
        end, spent = parts[number]
        held = within.get(number)
        num_gpus = attempt.num_gpus
        if held is not None:
            num_gpus = held.num_gpus if held.num_gpus is not None else num_gpus
            spent = _shared_out(spent, held, [parts[one][1] for one in members[held]])
            end = "running" if held.is_held and attempt.outcome is None else end
        unit: Unit = "GPU" if num_gpus else "process"
        devices = num_gpus or attempt.num_processes
        found.append(Charge(attempt.rule, attempt.job, end, unit, spent.times(devices), "sacct" if held else "attempts"))
    for allocation in allocations or []:
        is_ours = allocation.name.startswith(JOB_PREFIX) and allocation.folder in folders
        if is_ours and allocation not in members and allocation.num_gpus:
            rule, job = jobs_by_comment.get(allocation.comment, (UNKNOWN, {}))
            seconds = allocation.elapsed_s * allocation.num_gpus
            spent = Spent(overhead=seconds) if allocation.is_held else Spent(wasted=seconds)
            found.append(Charge(rule, job, "running" if allocation.is_held else "never began", "GPU", spent, "sacct"))
    return found


def replace_elapsed(attempt: AttemptRecord, allocation: Allocation) -> AttemptRecord:
    """An attempt without an end, as long as its allocation lasted after it began."""
    until_its_end = allocation.began + allocation.elapsed_s - attempt.started
    return attempt.model_copy(update={"elapsed_s": max(attempt.elapsed_s, until_its_end)})


def _allocation_of(attempts: Sequence[AttemptRecord], allocations: Sequence[Allocation]) -> dict[int, Allocation]:
    """Place of an attempt -> the allocation in which it ran: the last one of its job that had begun by then."""
    by_job: dict[str, list[Allocation]] = defaultdict(list)
    for allocation in sorted(allocations, key=lambda one: one.began):
        by_job[allocation.job].append(allocation)
    found = {}
    for number, attempt in enumerate(attempts):
        begun = [one for one in by_job.get(attempt.slurm_job or "", []) if one.began <= attempt.started + CLOCKS_DIFFER_S]
        if begun and attempt.started <= begun[-1].began + begun[-1].elapsed_s + CLOCKS_DIFFER_S:
            found[number] = begun[-1]
    return found


def _shared_out(spent: Spent, allocation: Allocation, all_within: Sequence[Spent]) -> Spent:
    """An attempt's part of an allocation: its own time, and its share of what lies around the attempts, the start of the job.

    That is overhead, or wasted with an attempt that was. Attempts that ran side by side share the time.
    """
    together = sum(one.allocated for one in all_within)
    if together >= allocation.elapsed_s:
        return spent.times(allocation.elapsed_s / together)
    around = (allocation.elapsed_s - together) * (spent.allocated / together if together else 1 / len(all_within))
    is_wasted = spent.wasted > 0 and not spent.useful and not spent.overhead
    return spent + (Spent(wasted=around) if is_wasted else Spent(overhead=around))


def count_hours(plan: Plan, *, folders: Collection[str], now: float) -> Hours:
    """The account of a checkout: of all attempts on file, whichever study they were for. `now` in seconds since 1970."""
    attempts, jobs = read_attempts(plan.layout), planned_jobs(plan)
    answer = ask_sacct(attempts[0].started - DAY_S) if attempts else "nothing was asked of SLURM"
    charges = charge(
        attempts,
        None if isinstance(answer, str) else answer,
        published={work_of(one.rule, one.job): _published(record_of(one.rule, one.job, plan.layout)) for one in attempts},
        now=now,
        folders=folders,
        jobs_by_comment=comments(jobs),
    )
    counted = {work_of(one.rule, one.job) for one in attempts}
    left = [(rule, job) for rule, job in jobs if work_of(rule, job) not in counted and record_of(rule, job, plan.layout).is_file()]
    return Hours(
        studies=tuple(plan.studies),
        rows=rows_of(charges, wanted_by(plan)),
        charges=charges,
        note=answer if isinstance(answer, str) else "",
        uncounted=Counter(rule for rule, _ in left if rule != "train_rung"),
    )


# --- sums ---------------------------------------------------------------------------------------------------------------


def rows_of(charges: Iterable[Charge], studies: Mapping[tuple[str, ...], Collection[str]]) -> list[Row]:
    """A row per rule, run, stage and suite, sorted. `studies`: names of a model or stage -> studies that want it."""
    groups: dict[tuple[Unit, int, str, tuple[str, ...]], list[Charge]] = defaultdict(list)
    order = {rule: number for number, rule in enumerate((*RULES, UNKNOWN))}
    for one in charges:
        groups[one.unit, order.get(one.rule, len(order)), one.rule, tuple(one.job.get(key, "") for key in KEYS)].append(one)
    return [
        Row(
            rule,
            dict(zip(KEYS, names, strict=True)),
            unit,
            ends={end: number for end in ENDS if (number := sum(one.end == end for one in members))},
            spent=sum((one.spent for one in members), Spent()),
            source="+".join(sorted({one.source for one in members})),
            studies=tuple(sorted(studies.get(tuple(filter(None, names[:5])), ()))),
        )
        for (unit, _, rule, names), members in sorted(groups.items())
    ]


def wanted_by(plan: Plan) -> dict[tuple[str, ...], set[str]]:
    """Names of each planned model and stage -> the active studies that want it."""
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for study, runs in plan.runs.items():
        for run in runs:
            found[(run.model,)].add(study)
            for stage in plan.stages_of(run):
                found[tuple(spec.stage_names(stage).values())].add(study)
    return found


def comments(jobs: Iterable[tuple[str, Mapping[str, str]]]) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Comment that Snakemake's SLURM executor gives a job -> its rule and wildcards.

    The comment is `rule_NAME_wildcards_A_B`, with `_` for `/`. Names may hold `_`, so it is not read but made again.
    """
    return {f"rule_{rule}_wildcards_{'_'.join(job.values()).replace('/', '_')}": (rule, job) for rule, job in jobs}


def planned_jobs(plan: Plan) -> list[tuple[str, dict[str, str]]]:
    """Rule and wildcards, in their order, of all planned jobs of RULES."""
    scratch = {value.name for value in plan.specs.values() if isinstance(value, spec.ModelSpec) and value.model.source == "scratch"}
    jobs: list[tuple[str, dict[str, str]]] = [("pretrain_model", {"model": name}) for name in sorted(scratch)]
    for folder, stage in plan.stages.items():
        names = spec.stage_names(stage)
        if stage.training:
            jobs += [("train_stage", names)]
            jobs += [("train_rung", names | {"rung": rung_name(rung)}) for rung in plan.screens.rungs.get(folder, [])]
        if (selection := plan.selection_of(stage)) and selection.race:
            jobs.append(("race_checkpoints", names))
        for suite in plan.suites_of(stage):
            is_harness = plan.registry.suites[suite].kind == "harness"
            rules = ("score_harness",) if is_harness else ("answer_mt_bench", "judge_mt_bench")
            jobs += [(rule, names | {"suite": suite, "part": part}) for rule in rules for part in plan.parts(stage, suite)]
    return jobs
