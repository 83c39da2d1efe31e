"""Decides which rows of which prepared phases a stage trains on, and counts them. Nothing is copied: rows are found by number."""

from __future__ import annotations

from sftstudy.errors import StudyError
from sftstudy.order import content_hash, mixture_rows, rows_hash
from sftstudy.paths import Layout
from sftstudy.records import MixtureRecord, PhaseCounts, PhaseRecord, provenance, read_record
from sftstudy.rows import read_rows
from sftstudy.spec import StageSpec, spec_hash


def mix_stage(spec: StageSpec, *, layout: Layout) -> MixtureRecord:
    """Record of a stage's mixture. Raises StudyError if a phase is missing, stale, or of another size than planned."""
    phases, rows = mixture_rows(spec.mixture, seed=spec.seed)
    num_tokens = 0
    data_hashes: dict[str, str] = {}
    counts: dict[str, PhaseCounts] = {}
    for number, part in enumerate(spec.mixture):
        path = layout.phase_record(spec.model, spec.data, part.phase)
        record = read_record(path, PhaseRecord)
        remedy = f"build it again with `snakemake -c1 --forcerun {path}`"
        if record.spec_hash != part.spec_hash or record.num_samples != part.available:
            raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c1 {path}`")
        file = layout.tokenised_rows(record.rows_key)
        prepared = read_rows(file, remedy=remedy)
        if prepared.data_hash() != record.data_hash:
            raise StudyError(f"{file}: not the rows of its record; {remedy}")
        data_hashes[part.phase] = record.data_hash
        taken = rows[phases == number]
        num_tokens += int(prepared.lengths[taken].sum())
        counts[part.phase] = PhaseCounts(
            num_read=record.num_read,
            dropped=record.dropped,
            truncated=record.truncated,
            num_taken=len(taken),
            num_supervised_tokens=int(prepared.supervised_lengths[taken].sum()),
        )
    hash_of_rows = rows_hash(spec.mixture, phases, rows)
    return MixtureRecord(
        spec_hash=spec_hash(spec, "mix_stage"),
        content_hash=content_hash(data_hashes, hash_of_rows=hash_of_rows),
        **provenance("numpy", "pyarrow"),
        num_samples=len(rows),
        phases=counts,
        rows_hash=hash_of_rows,
        num_tokens=num_tokens,
        num_supervised_tokens=sum(count.num_supervised_tokens for count in counts.values()),
    )
