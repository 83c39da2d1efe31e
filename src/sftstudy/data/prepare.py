"""Turns one phase of the data into tokenised rows with a loss mask, and reports on the mask.

Chats are tokenised chunk by chunk into a file, with a few numbers per chat kept in memory; from these numbers follows which chats
become samples; and those are filed by a hash of what they were made from. Where rows made the same way are on file, the chats are
first read for their hashes alone: rows of the same chats are only published again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sftstudy import config, hashes
from sftstudy.data.choose import FACTS, Choice, Facts, choose, equal_to_earlier
from sftstudy.data.formats import ROLES, Chat, SourceChats, read_phase
from sftstudy.data.items import read_items
from sftstudy.data.overlap import OverlapIndex
from sftstudy.data.parallel import in_order
from sftstudy.data.signatures import NUM_HASHES
from sftstudy.data.tokenise import Chunk, Tokeniser, TokeniserOf
from sftstudy.errors import StudyError
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout
from sftstudy.records import LengthHistogram, MaskReport, ModelRecord, PhaseRecord, RoleTokens, provenance, read_record
from sftstudy.rows import Rows, RowsWriter, read_with_metadata, write_rows
from sftstudy.semantics import PINNED_MAJORS, SEMANTICS
from sftstudy.spec import PhaseSpec, digest, spec_hash

NUM_BINS = 24
CHATS_PER_CHUNK = 500


def prepare_phase(spec: PhaseSpec, *, layout: Layout, num_processes: int = 1) -> PhaseRecord:
    """Write a phase's rows, unless they are on file, and return its record. Nothing depends on `num_processes`.

    Raises StudyError if a row is unusable, the count is not the planned one, or a library that tokenises is not of the planned
    major version.
    """
    check_libraries(spec.libraries)
    model = _model_record(spec, layout)
    check_worlds(spec.world_hashes, layout)
    items = {name: [item.texts for item in read_items(places, layout=layout)] for name, places in spec.overlap.items()}
    overlap = OverlapIndex(items) if items else None
    settings = TokeniserOf(layout.model_folder(spec.model), model.chat_template, _rules_of(spec), overlap)
    tokeniser = settings()
    work = Work(settings, tokeniser, _method(spec, tokeniser, model, items_hash=digest(items)), num_processes)
    key, report = _on_file(spec, work, layout) or _make(spec, work, layout)
    if report.num_samples != spec.definition.num_samples:
        raise StudyError(
            f"data.yaml: {spec.data}.phases.{spec.phase}.num_samples: {spec.definition.num_samples} planned, "
            f"{report.num_samples} left after cleaning (dropped: {report.dropped or 'none'}); write {report.num_samples}"
        )
    return PhaseRecord(
        spec_hash=spec_hash(spec),
        content_hash=digest({"rows": key, "tokenizer": model.tokenizer_hash}),
        **provenance("tokenizers", "transformers", "pyarrow"),
        **report.model_dump(),
        rows_key=key,
        chat_template=model.chat_template,
    )


def check_libraries(majors: Mapping[str, str]) -> None:
    """Raise StudyError unless these libraries are installed with these major versions."""
    for name, major in majors.items():
        found = _installed(name)
        if found.split(".")[0] != major:
            raise StudyError(
                f"{name}: {found} is installed, the plan tokenises with {major}.x; "
                f"`pip install -c constraints.txt {name}`, or change PINNED_MAJORS in src/sftstudy/semantics.py"
            )


# --- what is on file --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """How chats become rows: the tokeniser, what makes one elsewhere, and a hash of all that the rows depend on but the chats."""

    settings: TokeniserOf
    tokeniser: Tokeniser
    method: str
    num_processes: int


def _method(spec: PhaseSpec, tokeniser: Tokeniser, model: ModelRecord, *, items_hash: str) -> str:
    libraries = [*PINNED_MAJORS, *(["datasketch"] if spec.near_duplicates == "drop" else [])]
    return digest(
        {
            "template": tokeniser.chats.template,
            "tokenizer": model.tokenizer_hash,
            "special_tokens": tokeniser.chats.forgeries.pattern,
            "rules": _rules_of(spec).model_dump(),
            "items": items_hash,
            "mixing": [[source.weight, source.max_samples] for source in spec.definition.sources],
            "half": spec.definition.half,
            "libraries": {name: _installed(name).split(".")[0] for name in libraries},
            "semantics": SEMANTICS["prepare_phase"],
        }
    )


def _on_file(spec: PhaseSpec, work: Work, layout: Layout) -> tuple[str, MaskReport] | None:
    """Key and report of rows that were made of these very chats by this very method, if their bytes are those that were written.

    The chats are only read for it if rows of this method are on file at all.
    """
    if not any(layout.tokenised_rows("").parent.glob(f"{work.method}-*.arrow")):
        return None
    contents = Contents()
    for source in _sources(spec, layout):
        contents.begin()
        for chat in source.chats:
            contents.add(chat.chat_hash())
    key = f"{work.method}-{contents.digest()}"
    try:
        stored, metadata = read_with_metadata(layout.tokenised_rows(key), remedy="")
        report = MaskReport.model_validate_json(metadata.get("report", ""))
    except (StudyError, ValueError):
        return None
    return (key, report) if stored.data_hash() == report.data_hash else None


class Contents:
    """Counts and hashes chats source by source."""

    def __init__(self) -> None:
        self.num_chats: list[int] = []
        self._sha = hashlib.sha256()

    def begin(self) -> None:
        """The chats that follow are of the next source."""
        self.num_chats.append(0)

    def add(self, chat_hash: str) -> None:
        """Another chat."""
        self.num_chats[-1] += 1
        self._sha.update(f"{len(self.num_chats)} {chat_hash}\n".encode())

    def digest(self) -> str:
        """Hash of all chats so far, with the sources that they are of."""
        return self._sha.hexdigest()[:16]


# --- what is made -----------------------------------------------------------------------------------------------------


def _make(spec: PhaseSpec, work: Work, layout: Layout) -> tuple[str, MaskReport]:
    """Tokenise all chats, choose the samples, and file them; key and report."""
    contents = Contents()

    def chats() -> Iterator[Chat]:
        for source in _sources(spec, layout):
            contents.begin()
            for chat in source.chats:
                contents.add(chat.chat_hash())
                yield chat

    with RowsWriter(layout.tokenised_rows("").parent) as writer:
        facts, signatures = [np.zeros(0, FACTS)], [np.zeros((0, NUM_HASHES), np.uint32)]
        chunk: Chunk
        for chunk in in_order(work.tokeniser, _chunks(chats()), num_processes=work.num_processes, make_work=work.settings):
            facts.append(chunk.facts)
            if spec.near_duplicates == "drop":
                signatures.append(chunk.signatures)
            writer.append(chunk.input_ids, chunk.supervised, chunk.lengths)
        known = np.concatenate(facts)
        if spec.exact_duplicates == "fail" and len(equal := equal_to_earlier(known)):
            chat = next(islice(chats(), int(equal[0]), None))
            raise StudyError(f"{chat.origin}: equal to an earlier chat of the phase; remove one, or set `exact_duplicates: drop`")
        choice = choose(
            known,
            sources=list(zip(spec.definition.sources, contents.num_chats, strict=True)),
            half=spec.definition.half,
            drop_exact=spec.exact_duplicates == "drop",
            signatures=np.concatenate(signatures) if spec.near_duplicates == "drop" else None,
            near_threshold=spec.near_duplicate_threshold,
        )
        if not len(choice.order):
            raise StudyError(
                f"data {spec.data}, phase {spec.phase}: no samples left after cleaning (dropped: {choice.dropped}); "
                "relax the rules or correct the sources in data.yaml"
            )
        chosen = writer.choose(choice.order)
        report = _report(known, choice, chosen)
        key = f"{work.method}-{contents.digest()}"
        write_rows(layout.tokenised_rows(key), chosen, metadata={"report": report.model_dump_json()})
    return key, report


def _sources(spec: PhaseSpec, layout: Layout) -> Iterator[SourceChats]:
    return read_phase(spec.definition, data=spec.data, phase=spec.phase, layout=layout)


def _chunks(chats: Iterator[Chat]) -> Iterator[list[Chat]]:
    while chunk := list(islice(chats, CHATS_PER_CHUNK)):
        yield chunk


def _report(facts: Facts, choice: Choice, chosen: Rows) -> MaskReport:
    taken = facts[choice.order]
    lengths, num_replies = taken["length"].astype(np.int64), int(taken["num_replies"].sum())
    roles = taken["roles"].sum(axis=0, dtype=np.int64)
    num_supervised = int(roles[:, 2].sum())
    return MaskReport(
        num_read=len(facts),
        num_samples=len(taken),
        dropped=choice.dropped,
        repeated=choice.repeated,
        truncated=int(taken["truncated"].sum()),
        exact_duplicates=choice.exact_duplicates,
        data_hash=chosen.data_hash(),
        num_tokens=int(lengths.sum()),
        num_supervised_tokens=num_supervised,
        tokens_per_sample={
            "min": float(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "p95": float(np.percentile(lengths, 95)),
            "max": float(lengths.max()),
        },
        length_histogram=_histogram(lengths),
        role_tokens={
            role: RoleTokens(num_turns=turns, num_tokens=tokens, num_supervised_tokens=supervised)
            for role, (turns, tokens, supervised) in zip(ROLES, roles.tolist(), strict=True)
            if turns
        },
        supervised_per_turn=num_supervised / max(1, num_replies),
        eos_supervised_share=int(taken["num_closed"].sum()) / max(1, num_replies),
        bos_per_sample=int(taken["num_bos"].sum()) / len(taken),
    )


def _histogram(lengths: NDArray[np.int64]) -> LengthHistogram:
    first, last = int(lengths.min()), int(lengths.max()) + 1
    edges = np.unique(np.linspace(first, last, NUM_BINS + 1).astype(int))
    counts, _ = np.histogram(lengths, edges)
    return LengthHistogram(edges=edges.tolist(), counts=counts.tolist())


def _rules_of(spec: PhaseSpec) -> config.Cleaning:
    return config.Cleaning(**{name: getattr(spec, name) for name in config.Cleaning.model_fields})


def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def _model_record(spec: PhaseSpec, layout: Layout) -> ModelRecord:
    path = layout.model_record(spec.model)
    record = read_record(path, ModelRecord)
    if record.spec_hash != spec.model_hash:
        raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c1 {path}`")
    folder = layout.model_folder(spec.model)
    if not folder.is_dir() or hashes.tokenizer_hash(folder) != record.tokenizer_hash:
        raise StudyError(f"{folder}: its tokenizer is gone or changed; make it again with `snakemake -c1 --forcerun {path}`")
    return record
