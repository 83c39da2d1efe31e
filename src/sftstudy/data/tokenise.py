"""From a chunk of chats to tokens and facts: what can be said of a chat alone, whichever other chats there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftstudy import hashes
from sftstudy.config import Cleaning
from sftstudy.data.choose import FACTS, REASONS, Facts
from sftstudy.data.formats import Chat
from sftstudy.data.masks import ChatTokenizer, Rendered
from sftstudy.data.overlap import OverlapIndex
from sftstudy.data.signatures import NUM_HASHES, Signatures, signatures_of
from sftstudy.errors import StudyError


@dataclass(frozen=True, eq=False)
class Chunk:
    """Facts of all chats of a chunk, with their tokens end to end (a dropped chat has none) and, if asked for, signatures."""

    facts: Facts
    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    signatures: Signatures


@dataclass(frozen=True)
class TokeniserOf:
    """Makes the tokeniser of a model's folder: small enough to be sent to a process."""

    folder: Path
    template: str
    rules: Cleaning
    overlap: OverlapIndex | None = None

    def __call__(self) -> Tokeniser:
        """The tokeniser. Processes are the parallelism, so the library's own threads are switched off."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        return Tokeniser(load_tokenizer(self.folder), self)


class Tokeniser:
    """Checks, renders and tokenises chunks of chats. What it says of a chat does not depend on the chunk that it stands in."""

    def __init__(self, tokenizer: Any, settings: TokeniserOf) -> None:
        self._rules = settings.rules
        self._overlap = settings.overlap
        stop_ids = hashes.stop_ids(settings.folder) | {tokenizer.eos_token_id}
        self.chats = ChatTokenizer(tokenizer, name=settings.template, stop_ids=stop_ids, supervise=settings.rules.supervise)

    def __call__(self, chats: Sequence[Chat]) -> Chunk:
        """Facts and tokens of chats.

        Raises StudyError for a chat that may not be dropped, or a reply that is not closed by a token at which generation stops.
        """
        facts = np.zeros(len(chats), dtype=FACTS)
        ids: list[NDArray[np.int32]] = []
        masks: list[NDArray[np.bool_]] = []
        for number, chat in enumerate(chats):
            self._look_at(facts[number : number + 1], chat)
        usable = np.flatnonzero(facts["reason"] == 0).tolist()
        rendered = self._rendered([chats[number] for number in usable])
        for number, sample in zip(usable, self.chats.tokenise(rendered), strict=True):
            fact, chat = facts[number : number + 1], chats[number]
            if not all(sample.closed):
                raise StudyError(
                    f"{chat.origin}: chat template {self.chats.name!r} does not close a reply with a token at which generation "
                    "stops, so the model would never learn to stop; choose another `chat_template` in models.yaml"
                )
            if len(sample) > self._rules.max_length:
                if self._rules.over_length == "truncate":
                    sample = sample.truncated(self._rules.max_length)
                    fact["truncated"] = True
                else:
                    longest = f"{len(sample)} tokens, max_length is {self._rules.max_length}; raise it"
                    self._drop(fact, "over_length", chat, self._rules.over_length, longest, "`over_length: drop` or `truncate`")
                    continue
            if not sample.supervised.any():
                problem = "no token of it would be trained on; mend the row"
                self._drop(fact, "no_supervision", chat, self._rules.no_supervision, problem, "`no_supervision: drop`")
                continue
            fact["length"], fact["num_bos"] = len(sample), sample.num_bos
            fact["num_replies"], fact["num_closed"] = len(sample.replies), sum(sample.closed)
            fact["roles"] = sample.role_counts()
            ids.append(sample.input_ids)
            masks.append(sample.supervised)
        return Chunk(
            facts,
            np.concatenate([np.zeros(0, np.int32), *ids]),
            np.concatenate([np.zeros(0, np.bool_), *masks]),
            facts["length"].astype(np.int64),
            signatures_of(chats) if self._rules.near_duplicates == "drop" else np.zeros((len(chats), NUM_HASHES), np.uint32),
        )

    def _look_at(self, fact: Facts, chat: Chat) -> None:
        """What is known of a chat before it is rendered."""
        chat_hash = chat.chat_hash()
        fact["cap_hash"], fact["weight_hash"] = int(chat_hash[:16], 16), int(chat_hash[16:], 16)
        replies = [message.content for message in chat.messages if message.role == "assistant"]
        fact["reply_chars"] = sum(map(len, replies))
        if not replies:
            fact["reason"] = REASONS.index("no_reply")
        elif not all(reply.strip() for reply in replies):
            problem = "an empty assistant's reply; mend the row"
            self._drop(fact, "empty_reply", chat, self._rules.empty_replies, problem, "`empty_replies: drop`")
        elif found := next(filter(None, (self.chats.forgeries.search(message.content) for message in chat.messages)), None):
            problem = f"its text holds {found.group()}, which the model would read as a mark and not as text; mend the row"
            rule = self._rules.special_tokens_in_text
            self._drop(fact, "special_tokens_in_text", chat, rule, problem, "`special_tokens_in_text: drop`")
        elif self._overlap and self._overlap.hits("\n".join(message.content for message in chat.messages)):
            fact["reason"] = REASONS.index("benchmark_overlap")

    @staticmethod
    def _drop(fact: Facts, reason: str, chat: Chat, rule: str, problem: str, remedy: str) -> None:
        if rule == "fail":
            raise StudyError(f"{chat.origin}: {problem}, or set {remedy}")
        fact["reason"] = REASONS.index(reason)

    def _rendered(self, chats: Sequence[Chat]) -> list[Rendered]:
        """Rendered at once; where that fails, one by one, to name the row."""
        try:
            return self.chats.render([chat.messages for chat in chats])
        except StudyError:
            for chat in chats:
                try:
                    self.chats.render([chat.messages])
                except StudyError as error:
                    raise StudyError(f"{chat.origin}: {error}") from None
            raise


def load_tokenizer(folder: Any) -> Any:
    """The fast tokenizer of a model folder. Raises StudyError if it is not one: the loss mask needs its offsets."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise StudyError(f"{folder}: its tokenizer has no fast variant (tokenizer.json)")
    return tokenizer
