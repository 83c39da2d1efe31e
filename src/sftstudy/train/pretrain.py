"""Makes the base model of the tiny study: a word-level tokenizer and a small Llama, trained from nothing on the world's corpus.

The chats of the corpus are rendered with the very template that fine-tuning and scoring use, so base and tuned models answer
the same prompt.
"""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordLevelTrainer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, UNKNOWN, BEGIN, END = "<pad>", "<unk>", "<bos>", "<|end|>"
ANSWER = "<|assistant|>"
ROLES = ("<|system|>", "<|user|>", ANSWER)
SPECIAL_TOKENS = [PAD, UNKNOWN, BEGIN, *ROLES, END]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + ' ' + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
WARMUP_STEPS = 20
ROW_LENGTH = 64
STEPS_PER_ENTRY = 50
DOCUMENTS_PER_PROBE = 400

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PretrainingStage:
    """Fixed work on one file of the world: `num_steps` of `tokens_per_step`, a multiple of ROW_LENGTH, documents packed end to end.

    The learning rate warms up over WARMUP_STEPS, then stays or (`decay`) falls linearly to zero.
    """

    file: str
    num_steps: int
    tokens_per_step: int
    learning_rate: float
    decay: bool


@dataclass(frozen=True)
class PretrainingReport:
    """What came of it.

    `losses`: (step over all stages, mean token loss since the entry before). `answer_accuracy`: share of answer tokens in chats of
    the corpus that the finished base predicts, given the words before: did it learn its facts? `copy_accuracy`: the same for words
    that come after the same word for the second time: did the circuit form that finds a word again in the context? The loss shows
    neither, and without the second no skill is learnt later (0.16 before it forms, at about 300 steps; 0.85 and more after).
    """

    losses: list[tuple[int, float]]
    answer_accuracy: float
    copy_accuracy: float
    num_parameters: int
    num_tokens: int
    time_s: float


def pretrain(
    folder: Path, *, world: Path, architecture: Mapping[str, Any], stages: Sequence[PretrainingStage], seed: int
) -> PretrainingReport:
    """Trains the base in fp32 and saves it as a Hugging Face folder, which appears whole or not at all; an older one is replaced.

    `architecture` holds keyword arguments of `LlamaConfig`; vocabulary and special tokens come from the first stage's file. The
    same arguments and number of threads give the same weights on one machine.
    """
    began = time.perf_counter()
    tokenizer = train_tokenizer(_texts(read_rows(world / stages[0].file)))
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            **architecture,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    losses: list[tuple[int, float]] = []
    for number, stage in enumerate(stages):
        documents = _encode(read_rows(world / stage.file), tokenizer)
        steps_before = losses[-1][0] if losses else 0
        losses += [(steps_before + step, loss) for step, loss in _train_stage(model, documents, stage, seed=f"{seed}/{number}")]
    probes = documents[:DOCUMENTS_PER_PROBE]
    _save(folder, model, tokenizer)
    return PretrainingReport(
        losses=losses,
        answer_accuracy=_accuracy(model, probes, [_answers(ids, tokenizer) for ids in probes]),
        copy_accuracy=_accuracy(model, probes, [_repeats(ids) for ids in probes]),
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        num_tokens=sum(stage.num_steps * stage.tokens_per_step for stage in stages),
        time_s=time.perf_counter() - began,
    )


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, split at blanks, that knows every word of `texts` and our chat template."""
    words = Tokenizer(WordLevel(unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.train_from_iterator(texts, WordLevelTrainer(special_tokens=SPECIAL_TOKENS, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _texts(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield row["text"] if "text" in row else " ".join(message["content"] for message in row["messages"])


def _encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Token ids per document, from BEGIN to END."""
    texts = [
        f"{BEGIN} {row['text']} {END}" if "text" in row else tokenizer.apply_chat_template(row["messages"], tokenize=False)
        for row in rows
    ]
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def _packed(documents: list[list[int]], stage: PretrainingStage, *, seed: str) -> Iterator[torch.Tensor]:
    """Endless batches of shape (tokens_per_step / ROW_LENGTH, ROW_LENGTH); the documents are shuffled anew for each pass."""
    size = stage.tokens_per_step
    rng = random.Random(seed)
    stream: list[int] = []
    while True:
        for place in rng.sample(range(len(documents)), len(documents)):
            stream += documents[place]
            if len(stream) >= size:
                yield torch.tensor(stream[:size]).view(-1, ROW_LENGTH)
                stream = stream[size:]


def _train_stage(
    model: LlamaForCausalLM, documents: list[list[int]], stage: PretrainingStage, *, seed: str
) -> list[tuple[int, float]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY)
    losses: list[tuple[int, float]] = []
    recent: list[float] = []
    model.train()
    for step, batch in enumerate(islice(_packed(documents, stage, seed=seed), stage.num_steps)):
        left = 1 - step / stage.num_steps if stage.decay else 1.0
        optimizer.param_groups[0]["lr"] = stage.learning_rate * left * min(1.0, (step + 1) / WARMUP_STEPS)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        recent.append(loss.item())
        if len(recent) == STEPS_PER_ENTRY or step + 1 == stage.num_steps:
            losses.append((step + 1, sum(recent) / len(recent)))
            recent.clear()
            progress = f"{stage.file}: step {step + 1}/{stage.num_steps}, loss {losses[-1][1]:.3f}"
            print(f"\rpretraining on {progress}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return losses


def _answers(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[bool]:
    """Which tokens an assistant writes, END left out."""
    answering = False
    answers = []
    for token in ids:
        answering = answering and token != tokenizer.eos_token_id
        answers.append(answering)
        answering = answering or token == tokenizer.convert_tokens_to_ids(ANSWER)
    return answers


def _repeats(ids: list[int]) -> list[bool]:
    """Which tokens follow the token before them for the second time in this document: to predict them, look back."""
    pairs = list(pairwise(ids))
    return [False] + [pair in pairs[:place] for place, pair in enumerate(pairs)]


@torch.inference_mode()
def _accuracy(model: LlamaForCausalLM, documents: Sequence[list[int]], probed: Sequence[list[bool]]) -> float:
    """Share of the probed tokens that the model ranks first, given the document up to there; 0 if none is probed."""
    model.train(False)
    right = total = 0
    for document, mask in zip(documents, probed, strict=True):
        ids = torch.tensor(document)
        predicted = model(input_ids=ids[None]).logits[0, :-1].argmax(-1)
        right += int((predicted == ids[1:])[torch.tensor(mask[1:])].sum())
        total += sum(mask)
    return right / total if total else 0.0


def _save(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.generation_config = GenerationConfig.from_model_config(model.config)  # begin, end and padding; greedy is its default
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
