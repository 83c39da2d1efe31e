"""The checkpoints of a stage as files: where they lie, how far they were trained, and how they are loaded for scoring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sftstudy import hashes
from sftstudy.devices import claim
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_STAGE, Layout
from sftstudy.records import ModelRecord, TrainingRecord, read_record
from sftstudy.retired import remedy
from sftstudy.spec import StageSpec, spec_hash

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weights:
    """A checkpoint's folder in Hugging Face layout, its place on the samples axis, and the hash of its bytes."""

    ckpt: str
    folder: Path
    samples_seen: int
    samples_spent: int
    weights_hash: str
    remedy: str

    def check_there(self) -> None:
        """Raise StudyError, one line that names the rerun, if the weights were deleted. Nothing is read."""
        if not (self.folder / "config.json").is_file():
            raise StudyError(f"{self.folder}: weights are gone; to make them again: {self.remedy}")

    def check(self) -> None:
        """Raise StudyError, one line that names the rerun, if the weights were deleted, or aren't those of the record."""
        self.check_there()
        if hashes.weights_hash(self.folder) != self.weights_hash:
            raise StudyError(f"{self.folder}: weights are not those that the record names; to make them again: {self.remedy}")


def read_model(stage: StageSpec, layout: Layout) -> ModelRecord:
    """Record of the stage's base model. Raises StudyError if it answers to another spec."""
    path = layout.model_record(stage.model)
    record = read_record(path, ModelRecord)
    if record.spec_hash != stage.model_hash:
        raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c1 {path}`")
    return record


def find_weights(stage: StageSpec, checkpoints: list[str], layout: Layout) -> list[Weights]:
    """The named checkpoints of a stage in the given order; of an untouched base, the model itself. Nothing is loaded."""
    names = (stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    if stage.stage == BASE_STAGE:
        path = layout.model_record(stage.model)
        weights_hash, folder = read_model(stage, layout).weights_hash, layout.model_folder(stage.model)
        return [Weights(ckpt, folder, 0, 0, weights_hash, f"snakemake -c all --forcerun {path}") for ckpt in checkpoints]
    path = layout.stage_results(*names) / "training.json"
    record = read_record(path, TrainingRecord)
    if record.spec_hash != spec_hash(stage):
        raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c all {path}`")
    again = remedy(path, layout.stage_scratch(*names))
    entries = {entry.ckpt: entry for entry in record.checkpoints}
    if missing := [ckpt for ckpt in checkpoints if ckpt not in entries]:
        raise StudyError(f"{path}: has no checkpoint {', '.join(missing)}; {again}")
    return [
        Weights(
            ckpt,
            layout.stage_scratch(*names) / ckpt,
            entries[ckpt].samples_seen,
            entries[ckpt].samples_spent,
            entries[ckpt].weights_hash,
            again,
        )
        for ckpt in checkpoints
    ]


def load_tokenizer(stage: StageSpec, layout: Layout) -> Any:
    """The base model's tokenizer with the chat template that training used: all checkpoints of a run share it."""
    from transformers import AutoTokenizer

    folder, record = layout.model_folder(stage.model), layout.model_record(stage.model)
    if not folder.is_dir() or hashes.tokenizer_hash(folder) != read_model(stage, layout).tokenizer_hash:
        raise StudyError(f"{folder}: tokenizer is gone or changed; to make it again: snakemake -c all --forcerun {record}")
    return AutoTokenizer.from_pretrained(folder)


def load_model(folder: Path, *, precision: Literal["fp32", "bf16"]) -> Any:
    """A causal model ready for inference, on the GPU if there is one. Its logits are fp32 whatever the precision."""
    import torch
    from transformers import AutoModelForCausalLM

    claim(1)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if precision == "bf16":
        _compute_logits_in_fp32(model)
    return model


def _compute_logits_in_fp32(model: Any) -> None:
    """Do the last product in fp32: bf16 logits tie, and a tie goes to the first option."""
    import torch

    head = model.get_output_embeddings()
    weight = head.weight.detach().float()
    bias = head.bias.detach().float() if head.bias is not None else None

    def project(hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden.float(), weight, bias)

    head.forward = project


def require_chat_template(tokenizer: Any, *, model: str) -> None:
    """Raise StudyError if chats can't be rendered."""
    if not tokenizer.chat_template:
        raise StudyError(f"models.yaml: {model}: its tokenizer has no chat template; name a shipped one as chat_template")


NUM_FIRST_TOKENS = 8
"""How many tokens of a prompt's beginning a score record keeps."""


def starts_wrong(ids: list[int], tokenizer: Any, *, bos_expected: bool) -> str | None:
    """What is wrong with how a prompt starts, or None: two BOS tokens, or none where one is expected."""
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        return f"starts with two {tokenizer.bos_token} tokens"
    if bos is not None and bos_expected and ids[:1] != [bos]:
        return f"does not start with {tokenizer.bos_token}"
    return None


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a BOS token before a text by itself."""
    return tokenizer.bos_token_id is not None and list(tokenizer("a").input_ids[:1]) == [tokenizer.bos_token_id]


def encode_chat(tokenizer: Any, chat: list[dict[str, str]]) -> list[int]:
    """Tokens of a prompt as training and lm-eval make them: BOS is the template's, or else the tokenizer's own if it adds one."""
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    own_bos = adds_bos(tokenizer)
    if own_bos and ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    if fault := starts_wrong(ids, tokenizer, bos_expected=own_bos):
        raise StudyError(f"a chat prompt {fault}; mend the tokenizer's chat template")
    return ids
