"""Imports base models: from the hub, a folder or a GGUF file to a plain Hugging Face folder with the chat template that we use."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sftstudy import hashes
from sftstudy.config import FolderModel, GgufModel, HubModel, PackageFile, ScratchModel, WorldFile
from sftstudy.data.formats import Message
from sftstudy.data.masks import ChatTokenizer
from sftstudy.data.templates import SHIPPED, set_template
from sftstudy.data.tokenise import load_tokenizer
from sftstudy.environment import hub_remedy
from sftstudy.errors import StudyError
from sftstudy.locate import check_worlds, locate, world_file
from sftstudy.paths import Layout
from sftstudy.records import ModelRecord, provenance
from sftstudy.spec import ModelSpec, digest, spec_hash

HUB_PATTERNS = ["model*.safetensors", hashes.WEIGHTS_INDEX, *hashes.SMALL_FILES]
"""Not every *.safetensors: some repositories hold a second copy of the weights for other programs (consolidated.safetensors)."""
PROBE = [Message("user", "One?"), Message("assistant", "Two."), Message("user", "Three?"), Message("assistant", "Four.")]


def fetch_model(spec: ModelSpec, *, layout: Layout) -> ModelRecord:
    """Bring a base model to scratch, whole or not at all, and return its record. The stored type of hub and folder models is kept.

    Raises StudyError if it cannot be had, or if its chat template does not tell replies from prompts.
    """
    model = spec.model
    folder = layout.model_folder(spec.name)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        match model:
            case HubModel():
                _download(model, partial)
            case FolderModel():
                _copy(Path(model.path), partial)
            case GgufModel():
                file = PackageFile(package=model.package, file=model.file)
                _dequantise(locate(file, layout, registry="models.yaml"), partial)
            case _:
                raise StudyError(f"models.yaml: {spec.name}: a scratch model is made by pretrain_model")
        _apply_template(partial, model.chat_template)
        record = model_record(partial, spec)
        for path in partial.iterdir():
            path.chmod(0o644)  # transformers saves weights for their owner alone, and clusters have groups
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except StudyError as error:
        raise StudyError(f"models.yaml: {spec.name}: {str(error).replace(str(partial), str(folder))}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def model_record(folder: Path, spec: ModelSpec, *, pretraining: Mapping[str, float] | None = None) -> ModelRecord:
    """Record of a model folder: hashes of weights and tokenizer. Raises StudyError if the chat template fails a two-turn probe."""
    check_template(folder, spec.model.chat_template)
    weights_hash, tokenizer_hash = hashes.weights_hash(folder), hashes.tokenizer_hash(folder)
    return ModelRecord(
        spec_hash=spec_hash(spec),
        content_hash=digest({"weights": weights_hash, "tokenizer": tokenizer_hash}),
        **provenance("torch", "transformers", "tokenizers"),
        num_parameters=hashes.num_parameters(folder),
        weights_hash=weights_hash,
        tokenizer_hash=tokenizer_hash,
        chat_template=spec.model.chat_template,
        pretraining=dict(pretraining or {}),
    )


def pretraining_world(spec: ModelSpec, *, layout: Layout) -> Path:
    """Folder of the world that a scratch model learns from. Raises StudyError if it isn't today's, or a file is gone or changed."""
    if not isinstance(spec.model, ScratchModel):
        raise StudyError(f"models.yaml: {spec.name}: not a scratch model; fetch_model imports it")
    assert spec.world_hash is not None, "the plan gives every scratch model the hash of its world"
    check_worlds({spec.model.world: spec.world_hash}, layout)
    for name in sorted({stage.file for stage in spec.model.pretraining}):
        try:
            world_file(WorldFile(world=spec.model.world, file=name), layout, registry="models.yaml")
        except StudyError as error:
            raise StudyError(f"models.yaml: {spec.name}: {error}") from None
    return layout.world_folder(spec.model.world)


def check_template(folder: Path, name: str) -> None:
    """Raise StudyError unless the template renders by prefixes, writes at most one BOS and closes replies with a stop token.

    Where it marks its replies, the marks must lead to the very tokens that the prefixes do.
    """
    tokenizer = load_tokenizer(folder)
    set_template(tokenizer, "tokenizer")
    chats = ChatTokenizer(tokenizer, name=name, stop_ids=hashes.stop_ids(folder) | {tokenizer.eos_token_id})
    (sample,) = chats.tokenise(chats.render([PROBE], by_marks=False))
    if not all(sample.closed):
        raise StudyError(
            f"chat template {name!r} does not close replies with a token at which generation stops; "
            f"choose a shipped one: {', '.join(SHIPPED)}"
        )
    if chats.has_marks:
        (marked,) = chats.tokenise(chats.render([PROBE]))
        if marked.supervised.tolist() != sample.supervised.tolist():
            raise StudyError(
                f"chat template {name!r}: its generation marks are not around a reply and its closing token; "
                f"choose a shipped one: {', '.join(SHIPPED)}"
            )


def _download(model: HubModel, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if model.revision is None:
        raise StudyError(f"{model.id}: no revision; name a commit under `pins` in config.yaml of your overlay")
    try:
        found = snapshot_download(model.id, revision=model.revision, allow_patterns=HUB_PATTERNS)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise StudyError(
            f"{model.id} at {model.revision}: cannot be downloaded ({first}); check id, revision and access, "
            f"or copy it here and use `source: folder`{hub_remedy()}"
        ) from None
    _copy(Path(found), folder)


def _copy(source: Path, folder: Path) -> None:
    """Copy the weights that transformers would load, config and tokenizer, following links, and compare what was copied."""
    if not (source / "config.json").is_file():
        raise StudyError(f"{source}: no config.json; give a model folder in Hugging Face layout")
    small = [source / name for name in (*hashes.SMALL_FILES, hashes.WEIGHTS_INDEX)]
    for path in (*filter(Path.is_file, small), *hashes.weight_files(source)):
        shutil.copyfile(path, folder / path.name)
    if hashes.weights_hash(folder) != hashes.weights_hash(source):
        raise StudyError(f"{source}: changed while it was copied; try again")


def _dequantise(file: Path, folder: Path) -> None:
    """Load a GGUF file as fp32 weights and save them as safetensors, which transformers refuses unless it forgets the quantiser."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # without the argument, blocks stay packed where the package `kernels` is installed
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def _apply_template(folder: Path, name: str) -> None:
    """Store a shipped template in the folder's tokenizer, and its closing token as one at which generation stops."""
    if name == "tokenizer":
        return
    tokenizer = load_tokenizer(folder)
    set_template(tokenizer, name)
    tokenizer.save_pretrained(folder)

    def add_stop(settings: dict[str, Any]) -> None:
        settings["eos_token_id"] = sorted(hashes.stop_ids(folder) | {tokenizer.eos_token_id})

    _edit_json(folder / "generation_config.json", add_stop)


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    edit(settings)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
