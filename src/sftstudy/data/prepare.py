"""Turns one phase of the data into tokenised rows with a loss mask, and reports on the mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftstudy import hashes, rows
from sftstudy.data.formats import ROLES, Chat, SourceChats, read_phase
from sftstudy.data.templates import Tokenised, render, tokenise
from sftstudy.errors import StudyError
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout
from sftstudy.records import LengthHistogram, ModelRecord, PhaseRecord, RoleTokens, provenance, read_record
from sftstudy.spec import PhaseSpec, digest, spec_hash

EMPTY, LONG, UNWEIGHTED = "empty_reply", "over_length", "not_kept_by_weight"
NUM_BINS = 24


@dataclass(frozen=True)
class Prepared:
    """Tokenised samples and their chats, how many rows were dropped and why, and a hash of the chats that went in."""

    samples: list[Tokenised]
    chats: list[Chat]
    dropped: dict[str, int]
    num_read: int
    chats_hash: str


def prepare_phase(spec: PhaseSpec, *, layout: Layout) -> PhaseRecord:
    """Write a phase's rows and return its record.

    Raises StudyError if a row is unusable, the count is not the planned one, or a library that tokenises is not of the planned
    major version.
    """
    check_libraries(spec.libraries)
    model = _model_record(spec, layout)
    check_worlds(spec.world_hashes, layout)
    sources = read_phase(spec.definition, data=spec.data, phase=spec.phase, layout=layout)
    folder = layout.model_folder(spec.model)
    tokenizer = load_tokenizer(folder)
    prepared = prepare(
        sources,
        tokenizer=tokenizer,
        stop_ids=hashes.stop_ids(folder),
        template=model.chat_template,
        max_length=spec.max_length,
        over_length=spec.over_length,
        empty_replies=spec.empty_replies,
    )
    samples = prepared.samples
    if len(samples) != spec.definition.num_samples:
        raise StudyError(
            f"data.yaml: {spec.data}.phases.{spec.phase}.num_samples: {spec.definition.num_samples} planned, "
            f"{len(samples)} left after cleaning (dropped: {prepared.dropped or 'none'}); write {len(samples)}"
        )
    table = rows.from_lists([sample.input_ids for sample in samples], [sample.supervised for sample in samples])
    rows.write_rows(layout.phase_rows(spec.model, spec.data, spec.phase), table)
    lengths, num_replies = table.lengths, sum(sample.num_replies for sample in samples)
    return PhaseRecord(
        spec_hash=spec_hash(spec),
        content_hash=digest({"chats": prepared.chats_hash, "tokenizer": model.tokenizer_hash}),
        **provenance("tokenizers", "transformers", "pyarrow"),
        num_read=prepared.num_read,
        num_samples=len(samples),
        dropped=prepared.dropped,
        truncated=0,
        data_hash=table.data_hash(),
        rows_key=table.data_hash(),
        num_tokens=int(lengths.sum()),
        num_supervised_tokens=int(table.supervised.sum()),
        tokens_per_sample={
            "min": float(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "p95": float(np.percentile(lengths, 95)),
            "max": float(lengths.max()),
        },
        length_histogram=_histogram(lengths),
        role_tokens=_role_tokens(prepared, tokenizer),
        supervised_per_turn=int(table.supervised.sum()) / num_replies,
        eos_supervised_share=sum(sample.closed for sample in samples) / num_replies,
        bos_per_sample=sum(sample.num_bos for sample in samples) / len(samples),
        chat_template=model.chat_template,
    )


def prepare(
    sources: list[SourceChats],
    *,
    tokenizer: Any,
    stop_ids: set[int],
    template: str,
    max_length: int,
    over_length: str,
    empty_replies: str,
) -> Prepared:
    """Clean and tokenise chats, keeping their order.

    Raises StudyError for a row that may not be dropped, a reply that is not closed by a token at which generation stops, a reply
    without any supervised token, or if nothing is left.
    """
    dropped: Counter[str] = Counter()
    chats = [chat for source in sources for chat in source.chats]
    dropped[UNWEIGHTED] = sum(source.num_read - len(source.chats) for source in sources)
    full = []
    for chat in chats:
        if all(message.content.strip() for message in chat.messages if message.role == "assistant"):
            full.append(chat)
            continue
        if empty_replies == "fail":
            raise StudyError(f"{chat.origin}: an empty assistant's reply; mend the row, or set `empty_replies: drop`")
        dropped[EMPTY] += 1
    tokenised = tokenise(
        tokenizer,
        [_rendered(chat, tokenizer, template) for chat in full],
        name=template,
        stop_ids=stop_ids | {tokenizer.eos_token_id},
    )
    kept, chats_kept = [], []
    for chat, sample in zip(full, tokenised, strict=True):
        if len(sample.input_ids) > max_length:
            if over_length == "fail":
                length = len(sample.input_ids)
                raise StudyError(
                    f"{chat.origin}: {length} tokens, max_length is {max_length}; raise it, or set `over_length: drop`"
                )
            dropped[LONG] += 1
            continue
        if not any(sample.supervised[1:]):
            raise StudyError(f"{chat.origin}: no token of it would be trained on; mend the row")
        if sample.closed < sample.num_replies:
            raise StudyError(
                f"{chat.origin}: chat template {template!r} does not close a reply with a token at which generation stops, "
                "so the model would never learn to stop; choose another `chat_template` in models.yaml"
            )
        kept.append(sample)
        chats_kept.append(chat)
    if not kept:
        raise StudyError(f"no samples left after cleaning (dropped: {dict(+dropped)})")
    return Prepared(
        samples=kept,
        chats=chats_kept,
        dropped=dict(+dropped),
        num_read=sum(source.num_read for source in sources),
        chats_hash=digest([chat.row_hash for chat in chats]),
    )


def check_libraries(majors: Mapping[str, str]) -> None:
    """Raise StudyError unless these libraries are installed with these major versions."""
    for name, major in majors.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "none"
        if found.split(".")[0] != major:
            raise StudyError(
                f"{name}: {found} is installed, the plan tokenises with {major}.x; "
                f"`pip install -c constraints.txt {name}`, or change PINNED_MAJORS in src/sftstudy/semantics.py"
            )


def load_tokenizer(folder: Any) -> Any:
    """The fast tokenizer of a model folder. Raises StudyError if it is not one: the loss mask needs its offsets."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise StudyError(f"{folder}: its tokenizer has no fast variant (tokenizer.json)")
    return tokenizer


def _histogram(lengths: NDArray[np.int64]) -> LengthHistogram:
    first, last = int(lengths.min()), int(lengths.max()) + 1
    edges = np.unique(np.linspace(first, last, NUM_BINS + 1).astype(int))
    counts, _ = np.histogram(lengths, edges)
    return LengthHistogram(edges=edges.tolist(), counts=counts.tolist())


def _role_tokens(prepared: Prepared, tokenizer: Any) -> dict[str, RoleTokens]:
    """Role -> tokens of its messages without a template's framing; an assistant's are those that are trained on."""
    found = {}
    for role in ROLES:
        contents = [message.content for chat in prepared.chats for message in chat.messages if message.role == role]
        if role == "assistant":
            num_tokens = num_supervised = sum(sum(sample.supervised) for sample in prepared.samples)
        else:
            ids = tokenizer(contents, add_special_tokens=False, verbose=False)["input_ids"] if contents else []
            num_tokens, num_supervised = sum(map(len, ids)), 0
        if contents:
            found[role] = RoleTokens(num_turns=len(contents), num_tokens=num_tokens, num_supervised_tokens=num_supervised)
    return found


def _rendered(chat: Chat, tokenizer: Any, template: str) -> Any:
    try:
        return render(tokenizer, chat.messages, name=template)
    except StudyError as error:
        raise StudyError(f"{chat.origin}: {error}") from None


def _model_record(spec: PhaseSpec, layout: Layout) -> ModelRecord:
    path = layout.model_record(spec.model)
    record = read_record(path, ModelRecord)
    if record.spec_hash != spec.model_hash:
        raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c1 {path}`")
    folder = layout.model_folder(spec.model)
    if not folder.is_dir() or hashes.tokenizer_hash(folder) != record.tokenizer_hash:
        raise StudyError(f"{folder}: its tokenizer is gone or changed; make it again with `snakemake -c1 --forcerun {path}`")
    return record
