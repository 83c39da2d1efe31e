"""Reads every row of a data set before anything is trained on any of it."""

from __future__ import annotations

import hashlib

from sftstudy.data.choose import most_samples
from sftstudy.data.formats import read_phase
from sftstudy.errors import StudyError
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout
from sftstudy.records import DataRecord, provenance
from sftstudy.spec import DataSpec, spec_hash


def validate_data(spec: DataSpec, *, layout: Layout) -> DataRecord:
    """Chats per phase. Raises StudyError for a missing file, a malformed row, an empty source, or fewer chats than a phase plans.

    What only a tokenizer can tell, such as over-long chats, is found by `prepare_phase`.
    """
    check_worlds(spec.world_hashes, layout)
    num_chats: dict[str, int] = {}
    digest = hashlib.sha256()
    for phase, definition in spec.phases.items():
        counts = []
        for source in read_phase(definition, data=spec.name, phase=phase, layout=layout):
            count = 0
            for chat in source.chats:
                digest.update(chat.chat_hash().encode())
                count += 1
            counts.append((source.definition, count))
        most = most_samples(counts, half=definition.half)
        if most < definition.num_samples:
            raise StudyError(
                f"data.yaml: {spec.name}.phases.{phase}.num_samples: {definition.num_samples} planned, "
                f"the sources hold only {most}; write at most {most}"
            )
        num_chats[phase] = sum(count for _, count in counts)
    return DataRecord(spec_hash=spec_hash(spec), content_hash=digest.hexdigest()[:16], **provenance(), num_chats=num_chats)
