"""Reads every row of a data set before anything is trained on any of it."""

from __future__ import annotations

from sftstudy.data.formats import read_phase
from sftstudy.errors import StudyError
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout
from sftstudy.records import DataRecord, provenance
from sftstudy.spec import DataSpec, digest, spec_hash


def validate_data(spec: DataSpec, *, layout: Layout) -> DataRecord:
    """Rows per phase. Raises StudyError for a missing file, a malformed row, an empty source, or fewer rows than a phase plans.

    What only a tokenizer can tell, such as over-long chats, is found by `prepare_phase`.
    """
    check_worlds(spec.world_hashes, layout)
    num_chats: dict[str, int] = {}
    rows: list[str] = []
    for phase, definition in spec.phases.items():
        chats = [chat for source in read_phase(definition, data=spec.name, phase=phase, layout=layout) for chat in source.chats]
        if len(chats) < definition.num_samples:
            raise StudyError(
                f"data.yaml: {spec.name}.phases.{phase}.num_samples: {definition.num_samples} planned, "
                f"the sources hold only {len(chats)}; write at most {len(chats)}"
            )
        num_chats[phase] = len(chats)
        rows += [chat.row_hash for chat in chats]
    return DataRecord(spec_hash=spec_hash(spec), content_hash=digest(rows), **provenance(), num_chats=num_chats)
