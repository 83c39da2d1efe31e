"""Threads of Open Assistant's message trees, as pairs (role, text)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sftstudy.data.files import Rows, kind_of
from sftstudy.errors import StudyError

ROLES = {"prompter": "user", "assistant": "assistant"}
Thread = list[tuple[str, str]]


def threads_of(tree: Mapping[str, Any], *, every: bool, origin: str) -> list[Thread]:
    """Threads from a tree's prompt on, each cut after its last assistant turn, equal ones once; none if nothing was replied.

    The thread along the best-ranked replies (the lowest `rank`, else the first), or `every` path to a leaf. A deleted message, or
    one that its reviewers rejected, ends the thread before it. Raises StudyError if the tree is malformed.
    """
    prompt = tree.get("prompt")
    if not isinstance(prompt, dict):
        raise StudyError(f"{origin}: expected a tree with an object in 'prompt', found {kind_of(prompt)}")
    found: list[Thread] = []
    for thread in _paths(prompt, every=every, origin=origin):
        while thread and thread[-1][0] != "assistant":
            thread.pop()
        if thread and thread not in found:
            found.append(thread)
    return found


def as_trees(rows: Rows) -> Rows:
    """The rows as trees: nested ones as they come; then those that flat messages make by naming their parents, in file order."""
    messages: dict[str, tuple[str, dict[str, Any]]] = {}
    for origin, row in rows:
        if "prompt" in row:
            yield origin, row
            continue
        name = row.get("message_id") or row.get("user_message_id")
        if not isinstance(name, str):
            raise StudyError(f"{origin}: expected a tree with 'prompt', or a message with 'message_id' or 'user_message_id'")
        messages[name] = (origin, {**row, "replies": []})
    roots = []
    for origin, message in messages.values():
        parent = message.get("parent_id") or message.get("parent_message_id")
        if parent is None:
            roots.append((origin, {"prompt": message}))
        elif parent in messages:
            messages[parent][1]["replies"].append(message)
        else:
            raise StudyError(f"{origin}: its parent {parent!r} is not in this source; mend the row")
    yield from roots


def _paths(prompt: dict[str, Any], *, every: bool, origin: str) -> Iterator[Thread]:
    """Paths from the prompt on, in the order of the tree. The stack is our own: a long thread is no deep recursion."""
    stack: list[tuple[dict[str, Any], Thread]] = [(prompt, [])] if _is_usable(prompt) else []
    while stack:
        message, before = stack.pop()
        role, text = message.get("role"), message.get("text")
        if role not in ROLES or not isinstance(text, str):
            raise StudyError(
                f"{origin}: message {message.get('message_id')}: expected a 'text' and one of {', '.join(ROLES)} as 'role', "
                f"found {kind_of(text)} and {role!r}"
            )
        thread = [*before, (ROLES[role], text)]
        replies = [reply for reply in message.get("replies") or [] if _is_usable(reply)]
        if not every:
            replies = sorted(replies, key=_rank)[:1]
        if not replies:
            yield thread
        stack += [(reply, thread) for reply in reversed(replies)]


def _is_usable(message: Mapping[str, Any]) -> bool:
    return message.get("deleted") is not True and message.get("review_result") is not False


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return math.inf if rank is None else float(rank)
