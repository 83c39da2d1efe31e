"""Chat templates, and which of the tokens that they make are trained on.

A template is trusted only as far as it can be checked: what it writes before a reply, with the generation prompt, must be a
prefix of what it writes with the reply. Then the reply and its closing token are exactly what lies between, and no mark inside the
template is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sftstudy.data.formats import Message
from sftstudy.errors import StudyError

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TULU = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last or message['role'] != 'assistant' %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{% if messages[-1]['role'] == 'assistant' %}{{ '\\n' }}{% endif %}{{ '<|assistant|>\\n' }}"
    "{% endif %}"
)


@dataclass(frozen=True)
class Template:
    """A shipped template. `end_token` closes a reply and must be a token of the model; None stands for the tokenizer's own EOS."""

    text: str
    end_token: str | None


SHIPPED = {"chatml": Template(CHATML, "<|im_end|>"), "tulu": Template(TULU, None)}


@dataclass(frozen=True)
class Rendered:
    """A chat as text. `replies` are the spans, in characters, of each assistant's content with its closing token."""

    text: str
    replies: list[tuple[int, int]]


@dataclass(frozen=True)
class Tokenised:
    """A chat as tokens. `supervised` marks the replies' tokens; `closed` counts the replies whose stop token is trained on."""

    input_ids: list[int]
    supervised: list[bool]
    num_replies: int
    closed: int
    num_bos: int


def render(tokenizer: Any, messages: Sequence[Message], *, name: str) -> Rendered:
    """Text of a chat and the spans of its replies. Raises StudyError that names the template if it does not render by prefixes."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = _apply(tokenizer, turns, name=name)
    replies = []
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = _apply(tokenizer, turns[:number], name=name, add_generation_prompt=True)
        until = _apply(tokenizer, turns[: number + 1], name=name)
        if not (text.startswith(until) and until.startswith(before)):
            raise StudyError(
                f"chat template {name!r}: what it writes before message {number + 1} is not a prefix of what it writes with it, "
                "so its replies cannot be told from prompts; choose a shipped template: " + ", ".join(SHIPPED)
            )
        # blanks after the closing token belong to the next turn
        replies.append((len(before), len(before) + len(until[len(before) :].rstrip())))
    return Rendered(text, replies)


def tokenise(tokenizer: Any, chats: Sequence[Rendered], *, name: str, stop_ids: set[int]) -> list[Tokenised]:
    """Tokens of rendered chats, by a fast tokenizer. A token is supervised if its first character lies in a reply.

    One BOS: the template's, or the tokenizer's own where that adds one and the template does not. Raises StudyError for two.
    """
    adds_bos = own_bos(tokenizer)
    encoded = tokenizer([chat.text for chat in chats], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    made = []
    for chat, ids, offsets in zip(chats, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        supervised, closed = [False] * len(ids), 0
        starts = [first for first, _ in offsets]
        place = 0
        for first, last in chat.replies:
            final = None
            while place < len(ids) and starts[place] < last:
                if starts[place] >= first and offsets[place][1] > starts[place]:
                    supervised[place], final = True, place
                place += 1
            closed += final is not None and ids[final] in stop_ids
        if adds_bos is not None and ids[:1] != [adds_bos]:
            ids, supervised = [adds_bos, *ids], [False, *supervised]
        bos = tokenizer.bos_token_id
        num_bos = next((count for count, token in enumerate(ids) if token != bos), len(ids)) if bos is not None else 0
        if num_bos > 1:
            raise StudyError(f"chat template {name!r}: chats start with {num_bos} {tokenizer.bos_token} tokens; it must write one")
        made.append(Tokenised(list(ids), supervised, len(chat.replies), closed, num_bos))
    return made


def own_bos(tokenizer: Any) -> int | None:
    """The BOS that the tokenizer puts before a text by itself, if it does."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("a").input_ids[:1] == [bos] else None


def set_template(tokenizer: Any, name: str) -> None:
    """Give a tokenizer the named template; `tokenizer` keeps its own. StudyError if it has none, or lacks the closing token."""
    if name == "tokenizer":
        if not tokenizer.chat_template:
            raise StudyError(
                f"the tokenizer has no chat template; set `chat_template` in models.yaml to one of {', '.join(SHIPPED)}"
            )
        return
    if name not in SHIPPED:
        raise StudyError(f"chat_template {name!r}: unknown; give `tokenizer` or one of {', '.join(SHIPPED)}")
    template = SHIPPED[name]
    if template.end_token is not None:
        if template.end_token not in tokenizer.get_vocab():
            raise StudyError(
                f"chat_template {name!r} closes replies with {template.end_token}, which is no token of this model; use `tulu`"
            )
        tokenizer.eos_token = template.end_token
    elif tokenizer.eos_token is None:
        raise StudyError(f"chat_template {name!r} closes replies with the tokenizer's EOS, which this one lacks")
    tokenizer.chat_template = template.text


def _apply(tokenizer: Any, turns: list[dict[str, str]], *, name: str, add_generation_prompt: bool = False) -> str:
    from jinja2.exceptions import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise StudyError(f"chat template {name!r}: refuses roles {', '.join(turn['role'] for turn in turns)}: {error}") from None
    return text
