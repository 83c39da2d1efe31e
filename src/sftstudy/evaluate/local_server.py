"""A small HTTP server that lets a local model answer over the OpenAI chat protocol: a judge without an endpoint.

Requests that wait together are answered in one batch, each with its own temperature and seed. It is a thread of the job: it loads
the model before the first request and goes when the job goes.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftstudy.evaluate.chat_server import Completion, serve_chat
from sftstudy.evaluate.generate import generate, stop_tokens
from sftstudy.evaluate.weights import encode_chat, load_model, require_chat_template

DEFAULT_MAX_TOKENS = 256
"""Of a request that doesn't say how long its reply may be."""


GATHER_S = 0.05
"""How long a first request waits for others to share its batch."""


@dataclass
class _Waiting:
    """A request whose connection waits for its completion."""

    body: dict[str, Any]
    done: threading.Event = field(default_factory=threading.Event)
    completion: Completion | None = None


@contextmanager
def serve(folder: Path, *, max_batch: int) -> Iterator[str]:
    """Load the model of a folder in Hugging Face layout and serve it on a free local port; yields the base URL."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    require_chat_template(tokenizer, model=str(folder))
    model = load_model(folder, precision="bf16" if _has_gpu() else "fp32")
    requests: queue.Queue[_Waiting | None] = queue.Queue()

    def work() -> None:
        while first := requests.get():
            batch = [first]
            time.sleep(GATHER_S)
            while len(batch) < max_batch and not requests.empty() and (more := requests.get()):
                batch.append(more)
            completions = _complete_safely(model, tokenizer, [waiting.body for waiting in batch])
            for waiting, completion in zip(batch, completions, strict=True):
                waiting.completion = completion
                waiting.done.set()

    def answer(body: dict[str, Any]) -> Completion:
        waiting = _Waiting(body)
        requests.put(waiting)
        waiting.done.wait()
        assert waiting.completion is not None, "the worker sets it before it wakes us"
        return waiting.completion

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        with serve_chat(answer) as url:
            yield url
    finally:
        requests.put(None)  # the worker ends and lets go of the model: a panel may serve another one next
        worker.join()


def _complete_safely(model: Any, tokenizer: Any, bodies: list[dict[str, Any]]) -> list[Completion]:
    """As `complete`; a request that can't be answered, perhaps for its size, fails alone."""
    try:
        return complete(model, tokenizer, bodies)
    except Exception as error:
        if len(bodies) == 1:
            return [Completion(f"{type(error).__name__}: {error}", status=500)]
    return [completion for body in bodies for completion in _complete_safely(model, tokenizer, [body])]


def complete(model: Any, tokenizer: Any, bodies: list[dict[str, Any]]) -> list[Completion]:
    """Replies to a batch of chat requests. A draw depends on the request's text and its `seed`, not on the batch."""
    prompts = [encode_chat(tokenizer, body["messages"]) for body in bodies]
    limits = [int(body.get("max_tokens") or body.get("max_completion_tokens") or DEFAULT_MAX_TOKENS) for body in bodies]
    replies = generate(
        model,
        prompts,
        temperatures=[float(body.get("temperature") or 0.0) for body in bodies],
        seeds=[_seed(prompt, body.get("seed")) for prompt, body in zip(prompts, bodies, strict=True)],
        max_new_tokens=limits,
        stop_ids=stop_tokens(model, tokenizer),
    )
    context = model.config.max_position_embeddings
    return [
        Completion(
            tokenizer.decode(reply, skip_special_tokens=True).strip(),
            finish_reason="length" if len(reply) == min(limit, context - len(prompt)) else "stop",
            prompt_tokens=len(prompt),
            completion_tokens=len(reply),
        )
        if len(prompt) < context
        else Completion(f"the prompt has {len(prompt)} tokens, the model's context is {context}", status=400)
        for prompt, reply, limit in zip(prompts, replies, limits, strict=True)
    ]


def _seed(prompt: list[int], seed: object) -> int:
    return int(hashlib.sha256(f"{seed}/{prompt}".encode()).hexdigest()[:15], 16)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
