"""From chats to tokens, and which of them are trained on.

Two ways tell replies from prompts. A template with generation marks says it in one render: the marks give the characters of what
the assistant writes. A template without is trusted only as far as it can be checked: what it writes before a reply, with the
generation prompt, must be a prefix of what it writes with the reply. `check_template` compares both on import.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sftstudy.data.formats import Message
from sftstudy.data.templates import SHIPPED
from sftstudy.errors import StudyError

ROLES = ("system", "user", "assistant")
MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""What transformers looks for before it trusts a template to mark its replies (chat_template_utils.render_jinja_template)."""

Supervise = Literal["replies", "replies-and-system", "all"]
Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A chat as text. Spans are in characters: each reply's content with its closing token; each turn, with its framing, by role.

    Turns lie end to end. What stands between a reply and the next turn counts to the latter.
    """

    text: str
    replies: list[Span]
    turns: list[tuple[str, Span]]
    system_end: int


@dataclass(frozen=True, eq=False)
class Tokenised:
    """A chat as tokens. `supervised` marks what is trained on, never the first token. Spans are in tokens."""

    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    replies: list[Span]
    turns: list[tuple[str, Span]]
    closed: list[bool]
    num_bos: int

    def __len__(self) -> int:
        return len(self.input_ids)

    def truncated(self, length: int) -> Tokenised:
        """Its first `length` tokens. A reply that is cut is no longer closed, one that is cut off is gone."""
        kept = [(span, closed) for span, closed in zip(self.replies, self.closed, strict=True) if span[0] < length]
        return replace(
            self,
            input_ids=self.input_ids[:length],
            supervised=self.supervised[:length],
            replies=[(first, min(last, length)) for (first, last), _ in kept],
            turns=[(role, (first, min(last, length))) for role, (first, last) in self.turns if first < length],
            closed=[closed and span[1] <= length for span, closed in kept],
        )

    def role_counts(self) -> NDArray[np.int64]:
        """Turns, tokens and supervised tokens by role, shape (ROLES, 3)."""
        counts = np.zeros((len(ROLES), 3), dtype=np.int64)
        for role, (first, last) in self.turns:
            counts[ROLES.index(role)] += (1, last - first, int(np.count_nonzero(self.supervised[first:last])))
        return counts


class ChatTokenizer:
    """A fast tokenizer with its chat template, called `name` in messages. `stop_ids` are the tokens that end generation."""

    def __init__(self, tokenizer: Any, *, name: str, stop_ids: set[int], supervise: Supervise = "replies") -> None:
        self.name = name
        self._tokenizer = tokenizer
        self.template: str = tokenizer.get_chat_template()
        self._stop_ids = stop_ids
        self._supervise = supervise
        self._own_bos = own_bos(tokenizer)
        self._bos: int | None = tokenizer.bos_token_id  # looking it up takes as long as a template's render
        self._system_text = lru_cache(maxsize=1000)(lambda content: self._text_or_nothing([Message("system", content)]))
        # tokenizer.json may ask for either; rows are cut and padded elsewhere
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()

    @property
    def has_marks(self) -> bool:
        """Whether the template marks its replies."""
        return MARK.search(self.template) is not None

    @cached_property
    def forgeries(self) -> re.Pattern[str]:
        """What may not stand in a message: special tokens, which would be read as such, and marks of the template's turns."""
        words = {str(token) for token in self._tokenizer.all_special_tokens}
        words |= {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        if self.name in SHIPPED:
            words |= set(SHIPPED[self.name].marks)
        longest_first = sorted(
            filter(None, words), key=lambda word: (-len(word), word)
        )  # the pattern is hashed: not in a set's order
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def render(self, chats: Sequence[Sequence[Message]], *, by_marks: bool | None = None) -> list[Rendered]:
        """Text and spans of chats, by the template's marks if it has some. StudyError if they are not to be had."""
        if self.has_marks if by_marks is None else by_marks:
            texts, spans = self._apply(chats, with_spans=True)
            for chat, replies in zip(chats, spans, strict=True):
                expected = sum(message.role == "assistant" for message in chat)
                if len(replies) != expected:
                    raise StudyError(
                        f"chat template {self.name!r}: marks {len(replies)} of {expected} replies; mend its generation marks, or "
                        f"choose a shipped template: {', '.join(SHIPPED)}"
                    )
        else:
            texts = self._apply(chats)[0]
            spans = [self._spans_by_prefix(chat, text) for chat, text in zip(chats, texts, strict=True)]
        return [self._with_turns(chat, text, found) for chat, text, found in zip(chats, texts, spans, strict=True)]

    def tokenise(self, chats: Sequence[Rendered]) -> list[Tokenised]:
        """Tokens of rendered chats. A token belongs to the span in which its first character lies.

        One BOS: the template's, or the tokenizer's own where that adds one and the template does not. Raises StudyError for two, or
        if the system turn is to be trained on and the template writes none.
        """
        encoded = self._tokenizer.backend_tokenizer.encode_batch([chat.text for chat in chats], add_special_tokens=False)
        return [self._masked(chat, encoding) for chat, encoding in zip(chats, encoded, strict=True)]

    def _masked(self, chat: Rendered, encoding: Any) -> Tokenised:
        ids, size = encoding.ids, len(chat.text)
        cuts = [_first_token(encoding, first, size=size) for _, (first, _) in chat.turns]
        turns = [(role, (a, b)) for (role, _), a, b in zip(chat.turns, cuts, [*cuts[1:], len(ids)], strict=True)]
        replies = [
            (_first_token(encoding, first, size=size), _end_token(encoding, last, size=size)) for first, last in chat.replies
        ]
        system_end = _first_token(encoding, chat.system_end, size=size) if chat.system_end else 0
        if self._own_bos is not None and ids[:1] != [self._own_bos]:
            ids = [self._own_bos, *ids]
            replies = [(a + 1, b + 1) for a, b in replies]
            turns = [(role, (a + 1 if place else 0, b + 1)) for place, (role, (a, b)) in enumerate(turns)]
            system_end += 1 if system_end else 0
        elif turns:
            turns[0] = (turns[0][0], (0, turns[0][1][1]))
        supervised = np.full(len(ids), self._supervise == "all")
        for first, last in replies:
            supervised[first:last] = True
        if self._supervise == "replies-and-system" and chat.turns[0][0] == "system":
            supervised[:system_end] = True
        supervised[:1] = False
        return Tokenised(
            input_ids=np.array(ids, dtype=np.int32),
            supervised=supervised,
            replies=replies,
            turns=turns,
            closed=[last > first and ids[last - 1] in self._stop_ids for first, last in replies],
            num_bos=self._num_bos(ids),
        )

    def _num_bos(self, ids: list[int]) -> int:
        if self._bos is None:
            return 0
        number = next((count for count, token in enumerate(ids) if token != self._bos), len(ids))
        if number > 1:
            raise StudyError(
                f"chat template {self.name!r}: chats start with {number} {self._tokenizer.bos_token} tokens; it must write one"
            )
        return number

    def _spans_by_prefix(self, chat: Sequence[Message], text: str) -> list[Span]:
        spans = []
        for number, message in enumerate(chat):
            if message.role != "assistant":
                continue
            before = self._apply([chat[:number]], add_generation_prompt=True)[0][0]
            until = self._apply([chat[: number + 1]])[0][0]
            if not (text.startswith(until) and until.startswith(before)):
                raise StudyError(
                    f"chat template {self.name!r}: what it writes before message {number + 1} is not a prefix of what it writes "
                    f"with it, so its replies cannot be told from prompts; choose a shipped template: {', '.join(SHIPPED)}"
                )
            spans.append((len(before), len(until)))
        return spans

    def _with_turns(self, chat: Sequence[Message], text: str, spans: Sequence[Span]) -> Rendered:
        # blanks after the closing token belong to the next turn
        replies = [(first, first + len(text[first:last].rstrip())) for first, last in spans]
        turns: list[tuple[str, Span]] = []
        place = system_end = 0
        left = iter(replies)
        for number, message in enumerate(chat):
            if message.role == "system":
                written = self._system_text(message.content) if self._has_system_turn else ""
                end = system_end = len(written) if text.startswith(written) else 0
                if self._supervise == "replies-and-system" and not system_end:
                    raise StudyError(
                        f"chat template {self.name!r}: writes no system turn of its own; choose another template, or "
                        "set `supervise: replies`"
                    )
            elif message.role == "user":
                coming = next(((first, last) for first, last in replies if first >= place), None)
                follows = number + 1 < len(chat) and chat[number + 1].role == "user"
                end = place if follows else max(place, coming[0] - self._header_length) if coming else len(text)
            else:
                end = next(left)[1]
            turns.append((message.role, (place, end)))
            place = end
        role, (first, _) = turns[-1]
        turns[-1] = (role, (first, len(text)))
        return Rendered(text, replies, turns, system_end)

    @cached_property
    def _header_length(self) -> int:
        """Characters that open an assistant's turn, before its content."""
        probe = [Message("user", "a"), Message("assistant", "b")]
        if self.has_marks:
            first = self._apply([probe], with_spans=True)[1][0][0][0]
        else:
            first = len(self._apply([probe[:1]], add_generation_prompt=True)[0][0])
        return max(0, first - len(self._text_or_nothing(probe[:1])))

    @cached_property
    def _has_system_turn(self) -> bool:
        """Whether the template writes a system text where it stands, and not into the first user turn."""
        return self._system_text("a") != self._system_text("b")

    def _text_or_nothing(self, chat: Sequence[Message]) -> str:
        try:
            return self._apply([chat])[0][0]
        except StudyError:  # some templates refuse a chat of this shape
            return ""

    def _apply(
        self, chats: Sequence[Sequence[Message]], *, with_spans: bool = False, add_generation_prompt: bool = False
    ) -> tuple[list[str], list[list[Span]]]:
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered: Any = render_jinja_template(
                [[{"role": message.role, "content": message.content} for message in chat] for chat in chats],
                chat_template=self.template,
                return_assistant_tokens_mask=with_spans,
                add_generation_prompt=add_generation_prompt,
                **self._tokenizer.special_tokens_map,
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in chats[0])
            raise StudyError(f"chat template {self.name!r}: refuses roles {roles}: {error}") from None
        texts, spans = rendered
        return texts, spans


def own_bos(tokenizer: Any) -> int | None:
    """The BOS that the tokenizer puts before a text by itself, if it does."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("a").input_ids[:1] == [bos] else None


def _first_token(encoding: Any, char: int, *, size: int) -> int:
    """Number of the first token that begins at `char` or later, of a text of `size` characters; blanks may be part of no token."""
    for place in range(char, size):
        token: int | None = encoding.char_to_token(place)
        if token is not None:
            while token < len(encoding) and encoding.token_to_chars(token)[0] < char:
                token += 1
            return token
    return len(encoding)


def _end_token(encoding: Any, char: int, *, size: int) -> int:
    """As `_first_token`, without tokens of no width before it: some tokenizers write one where a text starts anew."""
    token = _first_token(encoding, char, size=size)
    while token and encoding.token_to_chars(token - 1)[0] >= char:
        token -= 1
    return token
