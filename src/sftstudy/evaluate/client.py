"""Asks a judge over the OpenAI chat protocol: many requests at a time, each asked until it has a reply.

Knows nothing of MT-Bench. What is promised: a reply is in the journal, on disk, before it counts; a request whose reply is there
is never sent again. A process that is killed may lose the replies that were on their way, at most `concurrency` of them, and the
next one asks for these again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

from sftstudy.config import Judge
from sftstudy.errors import StudyError
from sftstudy.evaluate.budget import Ledger, Usage
from sftstudy.evaluate.progress import Progress
from sftstudy.records import Entry
from sftstudy.spec import canonical

if TYPE_CHECKING:
    from aiohttp import ClientSession

TRANSIENT = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 after which the same request may succeed."""

HOPELESS = frozenset({401, 403, 404, 405})
"""HTTP statuses that every request would end with: a wrong key, model or address."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
"""Back-off before the first retry; it doubles up to the longest. A server's own Retry-After counts instead."""

LONGEST_RETRY_AFTER_S = 600.0

NUM_FAILURES_TO_STOP = 10
"""So many requests in a row that failed all their tries end the job: the judge is down."""

BYTES_PER_TOKEN = 4
"""Estimate for the rate limit. Against a budget a token is a byte: no tokenizer makes more of a text."""

TOKENS_AROUND = 64
"""Room for the tokens that a chat template puts around messages."""


@dataclass(frozen=True)
class Request:
    """The body of a request, under a key that identifies all that its reply depends on."""

    key: str
    body: dict[str, Any]


class Reply(Entry):
    """One reply of a judge, a line of the journal. `text` of a refusal or a server error is what the endpoint said."""

    key: str
    status: Literal["answered", "refused", "server_error"]
    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tstamp: float

    @property
    def usage(self) -> Usage:
        """Tokens that the endpoint says it took."""
        return Usage(self.prompt_tokens, self.completion_tokens)


class _TransientError(Exception):
    """The same request may succeed later. `unserved`: it was refused, so that nothing can have been billed."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, unserved: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.unserved = unserved


@dataclass
class Pace:
    """Spaces what happens so that no more than `per_minute` of it does; None is no limit."""

    per_minute: float | None
    free_at: float = 0.0

    def take(self, amount: float = 1.0) -> float:
        """Seconds to wait until `amount` more may happen; they are taken by this."""
        if self.per_minute is None:
            return 0.0
        now = time.monotonic()
        start, self.free_at = max(now, self.free_at), max(now, self.free_at) + 60 * amount / self.per_minute
        return start - now


def ask(
    judge: Judge, requests: Sequence[Request], *, base_url: str, append: Callable[[str, Reply], None], ledger: Ledger
) -> dict[str, Reply]:
    """Key -> reply for all requests; `append` gets each, with its key, as it comes, and must have stored it when it returns.

    A request without a reply after all retries, or that the endpoint calls wrong, has a reply of status `server_error`. Raises
    StudyError if the endpoint refuses every request, or is down, or if the budget is used up. What was stored stays.
    """
    return asyncio.run(_Asking(judge, base_url, append, ledger, Progress(f"{judge.model} judges", len(requests))).all(requests))


@dataclass
class _Asking:
    judge: Judge
    base_url: str
    append: Callable[[str, Reply], None]
    ledger: Ledger
    progress: Progress
    usage: Usage = field(default_factory=Usage)
    num_failures: int = 0
    num_exhausted_in_a_row: int = 0

    def __post_init__(self) -> None:
        self.key = api_key(self.judge)
        self.requests, self.tokens = Pace(self.judge.requests_per_minute), Pace(self.judge.tokens_per_minute)

    async def all(self, requests: Sequence[Request]) -> dict[str, Reply]:
        from aiohttp import ClientSession, ClientTimeout, TCPConnector

        self.stop = asyncio.Event()
        is_local = self.judge.server is not None
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        waiting = list(reversed(requests))
        replies: dict[str, Reply] = {}

        async def work(session: ClientSession) -> None:
            while waiting:
                request = waiting.pop()
                reply = await self._until_replied(session, request)
                if reply is None:
                    return
                self.append(request.key, reply)
                replies[request.key] = reply
                self._count(reply)

        async with ClientSession(
            headers=headers,
            timeout=ClientTimeout(total=self.judge.timeout_s),
            connector=TCPConnector(limit=0),
            trust_env=not is_local,  # no proxy on the way to this machine
        ) as session:
            workers = [asyncio.create_task(work(session)) for _ in range(min(self.judge.concurrency, len(waiting)))]
            try:
                await asyncio.gather(*workers)
            finally:
                # if one failed for all, what the others have asked for is still let in
                waiting.clear()
                self.stop.set()
                await asyncio.gather(*workers, return_exceptions=True)
        return replies

    def _count(self, reply: Reply) -> None:
        self.usage += reply.usage
        self.num_failures += reply.status == "server_error"
        spent = self.usage.cost(self.judge)
        more = [f"{self.num_failures} failed"] if self.num_failures else []
        more += [f"{self.usage.total} tokens"] if self.usage.total else []
        more += [f"cost {spent:.2f}"] if spent else []
        self.progress.report(1, more=", ".join(more))
        if self.num_exhausted_in_a_row >= NUM_FAILURES_TO_STOP:
            raise StudyError(
                f"judge {self.judge.model}: {self.num_exhausted_in_a_row} requests in a row failed, the last one with: "
                f"{reply.text}; verdicts so far are kept: mend it, run again"
            )

    async def _until_replied(self, session: ClientSession, request: Request) -> Reply | None:
        """The reply after as many attempts as it takes or may take; None if the job is being stopped."""
        size = len(canonical(request.body["messages"]).encode())
        most = Usage(size + TOKENS_AROUND, self.judge.max_tokens)
        for attempt in range(self.judge.num_retries + 1):
            await self._rest(max(self.requests.take(), self.tokens.take(size / BYTES_PER_TOKEN + self.judge.max_tokens)))
            if self.stop.is_set():
                return None
            billed = uuid.uuid4().hex
            if not self.ledger.reserve(billed, most):
                raise StudyError(
                    f"judge {self.judge.model}: the next request could pass its budget; verdicts so far are kept: raise max_cost "
                    "or max_total_tokens in benchmarks.yaml, run again"
                )
            try:
                reply = await self._once(session, request)
            except _TransientError as error:
                if error.unserved:
                    self.ledger.settle(billed, Usage())
                if attempt == self.judge.num_retries:
                    self.num_exhausted_in_a_row += 1
                    return self._reply(request, "server_error", f"{error} (after {attempt + 1} tries)")
                await self._rest(_pause_s(error, attempt))
            except StudyError:
                self.ledger.settle(billed, Usage())
                raise
            else:
                self.num_exhausted_in_a_row = 0
                if reply.status != "answered" or reply.usage.total:  # untold tokens are reckoned at the most
                    self.ledger.settle(billed, reply.usage)
                return reply
        raise AssertionError("the last attempt returns")

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless the job is stopped meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def _once(self, session: ClientSession, request: Request) -> Reply:
        """One attempt. Raises _TransientError if another one may succeed, StudyError if none of any request would."""
        from aiohttp import ClientError

        try:
            async with session.post(f"{self.base_url.rstrip('/')}/chat/completions", json=request.body) as response:
                status, headers, text = response.status, response.headers, await response.text(errors="replace")
        except TimeoutError:
            raise _TransientError(f"no reply within {self.judge.timeout_s:g} s") from None
        except (ClientError, OSError) as error:
            raise _TransientError(self._clean(f"{type(error).__name__}: {error}")) from None
        if status == 200:
            return self._read(request, text)
        message, code = _error_of(text)
        said = self._clean(f"HTTP {status}: {message}")
        if code.startswith("content_"):
            return self._reply(request, "refused", said)
        if status in HOPELESS or code == "insufficient_quota":
            raise StudyError(f"judge {self.judge.model}: {said}; correct the judge in benchmarks.yaml or its key, run again")
        if status in TRANSIENT or status >= 500:
            raise _TransientError(said, retry_after_s=_retry_after_s(headers), unserved=True)
        return self._reply(request, "server_error", said)

    def _read(self, request: Request, text: str) -> Reply:
        """The reply in a body of status 200. Raises _TransientError if it is not what the protocol says."""
        try:
            body = json.loads(text)
            choice = body["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            content, refusal = message.get("content"), message.get("refusal")
            used = body.get("usage") or {}
            usage = {name: int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _TransientError(self._clean(f"malformed reply: {text[:200]}")) from None
        if refusal or finish == "content_filter":
            return self._reply(request, "refused", str(refusal or content or ""), **usage)
        return self._reply(request, "answered", content if isinstance(content, str) else "", **usage)

    def _reply(self, request: Request, status: Literal["answered", "refused", "server_error"], text: str, **usage: int) -> Reply:
        return Reply(key=request.key, status=status, text=self._clean(text), tstamp=time.time(), **usage)

    def _clean(self, text: str) -> str:
        """Nothing that an endpoint says may carry our key into a file or a log."""
        return text.replace(self.key, "***") if self.key else text


def api_key(judge: Judge) -> str:
    """The judge's key from the environment, or none. Raises StudyError if its variable is not set."""
    if judge.api_key_env is None:
        return ""
    if not (key := os.environ.get(judge.api_key_env, "").strip()):
        raise StudyError(
            f"judge {judge.model}: environment variable {judge.api_key_env} is not set; export it, or pass it to the job"
        )
    return key


def _error_of(text: str) -> tuple[str, str]:
    """Message and code in the body of an error; the body's beginning where it is not the protocol's."""
    try:
        error = json.loads(text)["error"]
        return str(error.get("message") or text[:200]), str(error.get("code") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return text[:200], ""


def _retry_after_s(headers: Any) -> float | None:
    """Seconds that a server asks us to wait, given as such or as a date."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        wait = float(value)
    except ValueError:
        try:
            wait = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(wait, 0.0), LONGEST_RETRY_AFTER_S)


def _pause_s(error: _TransientError, attempt: int) -> float:
    """How long to wait before the next attempt: what the server asks for, or twice as long each time; jitter parts the workers."""
    jitter = random.uniform(0.5, 1.0)  # decides when, never what
    if error.retry_after_s is not None:
        return error.retry_after_s + FIRST_PAUSE_S * (1 - jitter)
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * jitter)
