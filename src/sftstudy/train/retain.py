"""Removes the weights of a stage that nobody will ask for: all scores exist, and no stage starts from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import RetentionRecord, ScoreRecord, SelectionRecord, TrainingRecord, provenance, read_record
from sftstudy.retired import read_mark, write_mark
from sftstudy.spec import StageSpec, digest, spec_hash
from sftstudy.train import checkpoints
from sftstudy.train.lease import held


def retain_weights(
    spec: StageSpec, *, removable: Sequence[str], scores: Sequence[Path], children: Sequence[Path], layout: Layout
) -> RetentionRecord:
    """Remove the `removable` checkpoints from scratch, but for the one that `children` start from, and say what stays.

    `scores` are the score records of all of the stage's checkpoints, `children` the training records of the stages that continue
    from it. Nothing is removed from a scratch folder that is not the training record's own. Raises StudyError, and removes nothing,
    if a record is missing, or one answers to other weights than the training record's.
    """
    names = (spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
    results, scratch = layout.stage_results(*names), layout.stage_scratch(*names)
    path = results / "training.json"
    training = read_record(path, TrainingRecord)
    if training.spec_hash != spec_hash(spec):
        raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c all {path}`")
    hashes_of = {entry.ckpt: entry.weights_hash for entry in training.checkpoints}
    if training.status.startswith("stopped"):  # it may go on one day, and needs what it has saved
        removable = []
    else:
        _check_scores(scores, hashes_of)
    for child in children:
        read_record(child, TrainingRecord)
    chosen = _chosen(results / "selection.json", hashes_of) if children and removable else None
    going = [ckpt for ckpt in hashes_of if ckpt in removable and ckpt != chosen]
    return RetentionRecord(
        spec_hash=training.spec_hash,
        content_hash=digest(hashes_of),
        **provenance(),
        kept=[ckpt for ckpt in hashes_of if ckpt not in going],
        removed=going,
        bytes_freed=_remove(scratch, going, training),
    )


def _check_scores(paths: Sequence[Path], hashes_of: dict[str, str]) -> None:
    """Raise StudyError unless each suite in the records has scored all checkpoints, with today's weights."""
    scored: dict[str, set[str]] = {}
    for path in paths:
        record = read_record(path, ScoreRecord)
        for score in record.scores:
            if hashes_of.get(score.ckpt) != score.weights_hash:
                raise StudyError(f"{path}: {score.ckpt} was trained again since; score it again with `snakemake -c all {path}`")
        scored.setdefault(record.suite, set()).update(score.ckpt for score in record.scores)
    for suite, ckpts in scored.items():
        if missing := sorted(hashes_of.keys() - ckpts):
            raise StudyError(f"--scores: {suite} has no score of {', '.join(missing)}; name the records of all parts")


def _chosen(path: Path, hashes_of: dict[str, str]) -> str:
    selection = read_record(path, SelectionRecord)
    if hashes_of.get(selection.ckpt) != selection.weights_hash:
        raise StudyError(f"{path}: names weights that training.json does not have; `snakemake -c1 --forcerun {path}`")
    return selection.ckpt


def _remove(scratch: Path, going: Sequence[str], training: TrainingRecord) -> int:
    """Bytes that the removed checkpoints took, earlier removals included. The mark comes first: a kill leaves no riddle."""
    finished = scratch / "finished.json"
    if not finished.is_file() or read_record(finished, TrainingRecord) != training:
        return 0
    with held(scratch):
        sizes = {ckpt: sum(path.stat().st_size for path in (scratch / ckpt).rglob("*")) for ckpt in going}
        sizes |= read_mark(scratch)
        if sizes:
            write_mark(scratch, sizes)
        for ckpt in going:
            checkpoints.remove(scratch / ckpt)
    return sum(sizes.values())
