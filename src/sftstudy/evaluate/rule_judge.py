"""A local judge that grades by rule, over the OpenAI chat protocol like any other, for studies without a judge model.

It finds the reference and the assistant's answer between the markers of FastChat's judge prompts, and grades: equal words 10;
else min(9, 1 + round(8 x F1)) with F1 from the longest common subsequence of words; an empty answer 1. Without a reference in
the prompt it says so and gives no rating.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sftstudy.evaluate.chat_server import Completion, serve_chat

_ONE_REFERENCE = re.compile(r"\[The Start of Reference Answer\]\n(.*?)\n?\[The End of Reference Answer\]", re.DOTALL)
_ONE_ANSWER = re.compile(r"\[The Start of Assistant's Answer\]\n(.*?)\n?\[The End of Assistant's Answer\]", re.DOTALL)
_REFERENCES = re.compile(r"<\|The Start of Reference Answer\|>\n(.*?)<\|The End of Reference Answer\|>", re.DOTALL)
_ANSWERS = re.compile(r"<\|The Start of Assistant A's Conversation with User\|>\n(.*?)<\|The End of Assistant A's", re.DOTALL)


def grade(answer: str, reference: str) -> int:
    """Rating from 1 to 10 of an answer against a reference, by words."""
    words, expected = answer.split(), reference.split()
    if not words:
        return 1
    if words == expected:
        return 10
    common = _longest_common_subsequence(words, expected)
    f1 = 2 * common / (len(words) + len(expected))
    return min(9, 1 + round(8 * f1))


def _longest_common_subsequence(left: list[str], right: list[str]) -> int:
    row = [0] * (len(right) + 1)
    for word in left:
        previous = 0
        for place, other in enumerate(right, start=1):
            previous, row[place] = row[place], previous + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]


def verdict(prompt: str) -> str:
    """The judge's reply to a rendered prompt. A prompt of two turns is graded on the second answer."""
    both, conversation = _REFERENCES.search(prompt), _ANSWERS.search(prompt)
    one, reply = _ONE_REFERENCE.search(prompt), _ONE_ANSWER.search(prompt)
    if both and conversation:
        reference, answer = _last(both[1], "### Reference answer:"), _last(conversation[1], "### Assistant A:")
    elif one and reply:
        reference, answer = one[1].strip(), reply[1].strip()
    else:
        return "There is no reference answer in this prompt, so the rule gives no rating."
    return f"Compared with the reference word by word. Rating: [[{grade(answer, reference)}]]"


def _last(conversation: str, heading: str) -> str:
    return conversation.rpartition(f"{heading}\n")[2].strip()


@contextmanager
def serve() -> Iterator[str]:
    """Run the judge on a free local port; yields its base URL and stops it at the end."""

    def answer(body: dict[str, Any]) -> Completion:
        prompt = next(message["content"] for message in reversed(body["messages"]) if message["role"] == "user")
        return Completion(verdict(prompt))

    with serve_chat(answer) as url:
        yield url
