import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sftstudy.config import Judge
from sftstudy.errors import StudyError
from sftstudy.evaluate.budget import Ledger, Usage
from sftstudy.evaluate.client import Pace, Reply, Request, ask
from sftstudy.evaluate.journal import open_journal, read_journal

OK = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "[[7]]"}, "finish_reason": "stop"}]}


@contextmanager
def replying(reply: Callable[[int], tuple[int, dict | str, dict[str, str]]]) -> Iterator[tuple[str, list[tuple[float, dict]]]]:
    """A server that answers its n-th request with `reply(n)`: status, body, headers. Yields its URL and (time, request) of each."""
    seen: list[tuple[float, dict]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(seen)
                seen.append((time.monotonic(), request))
            status, body, headers = reply(number)
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_):
            """A client that gave up is no error of ours."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
        server.shutdown()


def asked(url: str, num: int, *, ledger: Ledger | None = None, stored: list[Reply] | None = None, **settings) -> list[Reply]:
    judge = Judge(model="m", base_url=url, **({"concurrency": 1, "num_retries": 3, "timeout_s": 5.0} | settings))
    messages = [{"role": "user", "content": "hi"}]
    requests = [Request(f"k{number}", {"model": "m", "messages": messages, "max_tokens": 10}) for number in range(num)]
    kept = [] if stored is None else stored
    if ledger:
        ledger.judge = judge
    replies = ask(judge, requests, base_url=url, append=lambda _, reply: kept.append(reply), ledger=ledger or Ledger("no", judge))
    assert [reply.key for reply in replies.values()] == [reply.key for reply in kept]
    return [replies[request.key] for request in requests]


@pytest.mark.parametrize(("header", "least"), [("0.7", 0.7), ("junk", 0.2)])
def test_a_server_may_say_how_long_to_wait(header, least):
    with replying(lambda n: (429, "slow down", {"Retry-After": header}) if n == 0 else (200, OK, {})) as (url, seen):
        assert asked(url, 1)[0].text == "[[7]]"
    assert least <= seen[1][0] - seen[0][0] < least + 3


def test_a_date_to_wait_for_is_understood():
    from email.utils import formatdate

    soon = formatdate(time.time() + 2, usegmt=True)
    with replying(lambda n: (503, "later", {"Retry-After": soon}) if n == 0 else (200, OK, {})) as (url, seen):
        asked(url, 1)
    assert 0.5 < seen[1][0] - seen[0][0] < 5


@pytest.mark.parametrize("body", ["not json", "[]", {"choices": []}, {"choices": [{"message": None}]}, {"choices": [{}]}, "null"])
def test_a_malformed_reply_is_asked_again(body):
    with replying(lambda n: (200, body, {}) if n == 0 else (200, OK, {})) as (url, seen):
        assert (asked(url, 1)[0].status, len(seen)) == ("answered", 2)


def test_what_stays_malformed_is_a_server_error():
    with replying(lambda _: (200, "<html>", {})) as (url, seen):
        reply = asked(url, 1, num_retries=1)[0]
    assert (reply.status, reply.text, len(seen)) == ("server_error", "malformed reply: <html> (after 2 tries)", 2)


def test_content_that_is_no_text_is_an_empty_reply():
    empty = {"choices": [{"message": {"content": None}, "finish_reason": "length"}], "usage": None}
    with replying(lambda _: (200, empty, {})) as (url, _):
        assert (asked(url, 1)[0].status, asked(url, 1)[0].text) == ("answered", "")


def test_a_server_that_trickles_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle():
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(50):
                time.sleep(0.1)
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        threading.Thread(target=trickle, daemon=True).start()
        began = time.monotonic()
        reply = asked(f"http://127.0.0.1:{server.getsockname()[1]}/v1", 1, timeout_s=0.5, num_retries=0)[0]
    assert (reply.status, reply.text) == ("server_error", "no reply within 0.5 s (after 1 tries)")
    assert time.monotonic() - began < 3


def test_a_wrong_key_ends_the_job_at_once_and_is_not_repeated(monkeypatch):
    monkeypatch.setenv("KEY", "sk-secret")
    with (
        replying(lambda _: (401, {"error": {"message": "wrong key sk-secret", "code": "invalid_api_key"}}, {})) as (url, seen),
        pytest.raises(StudyError, match=r"^judge m: HTTP 401: wrong key \*\*\*; correct the judge in benchmarks.yaml or its key"),
    ):
        asked(url, 50, api_key_env="KEY", concurrency=4)
    assert len(seen) <= 4


def test_an_empty_purse_ends_the_job_at_once():
    broke = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    with replying(lambda _: (429, broke, {})) as (url, seen), pytest.raises(StudyError, match="exceeded your current quota"):
        asked(url, 50)
    assert len(seen) == 1


def test_a_judge_that_is_down_ends_the_job_and_keeps_what_it_said():
    stored: list[Reply] = []
    with (
        replying(lambda n: (200, OK, {}) if n < 3 else (500, "down", {})) as (url, seen),
        pytest.raises(StudyError, match="judge m: 10 requests in a row failed, the last one with: HTTP 500: down"),
    ):
        asked(url, 50, num_retries=0, stored=stored)
    assert ([reply.status for reply in stored], len(seen)) == (["answered"] * 3 + ["server_error"] * 10, 13)


def test_a_request_that_is_wrong_is_not_asked_again():
    refused = {"error": {"message": "Unsupported parameter: 'max_tokens'", "code": "unsupported_parameter"}}
    with replying(lambda n: (400, refused, {}) if n == 0 else (200, OK, {})) as (url, seen):
        first, second = asked(url, 2)
    assert (first.status, first.text, second.status, len(seen)) == (
        "server_error",
        "HTTP 400: Unsupported parameter: 'max_tokens'",
        "answered",
        2,
    )


def test_no_more_requests_at_a_time_than_allowed():
    running, most, lock = 0, 0, threading.Lock()

    def reply(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return 200, OK, {}

    with replying(reply) as (url, _):
        asked(url, 20, concurrency=4)
    assert 2 <= most <= 4


def test_the_rate_limit_spaces_requests():
    with replying(lambda _: (200, OK, {})) as (url, seen):
        asked(url, 5, concurrency=5, requests_per_minute=600)
        times = [when for when, _ in seen]
        assert times[-1] - times[0] >= 0.35
        seen.clear()
        asked(url, 3, concurrency=3, tokens_per_minute=6000, max_tokens=10)  # about 18 tokens each
        assert seen[-1][0] - seen[0][0] >= 0.3
    pace = Pace(60)
    assert [round(pace.take()) for _ in range(3)] == [0, 1, 2]
    assert Pace(None).take(1e9) == 0


USED = OK | {"usage": {"prompt_tokens": 20, "completion_tokens": 10}}


def test_a_budget_stops_before_it_is_passed(tmp_path):
    budget = {"max_total_tokens": 1000, "max_tokens": 10}
    stored: list[Reply] = []
    with replying(lambda _: (200, USED, {})) as (url, seen):
        ledger = Ledger(tmp_path / "ledger.jsonl", None)
        with pytest.raises(StudyError, match=r"judge m: the next request could pass its budget; verdicts so far are kept: raise"):
            asked(url, 100, ledger=ledger, stored=stored, **budget)
        spent = sum(reply.usage.total for reply in stored)
        most = 64 + len('[{"content":"hi","role":"user"}]') + 10
        assert 1000 - most < spent <= 1000
        assert len(seen) == len(stored)
        # another job of the suite finds it used up, and may go on when it is raised
        with pytest.raises(StudyError, match="budget"):
            asked(url, 1, ledger=Ledger(ledger.path, None), **budget)
        assert len(asked(url, 2, ledger=Ledger(ledger.path, None), **budget | {"max_total_tokens": 1200})) == 2


def test_money_is_counted_by_prices(tmp_path):
    prices = {"price_prompt": 10.0, "price_completion": 30.0, "max_tokens": 10}
    judge = Judge(model="m", base_url="http://x", **prices)
    assert Usage(20, 10).cost(judge) == pytest.approx(500e-6)
    with replying(lambda _: (200, USED, {})) as (url, seen), pytest.raises(StudyError, match="budget"):
        asked(url, 100, ledger=Ledger(tmp_path / "ledger.jsonl", None), max_cost=5e-3, **prices)
    assert 7 <= len(seen) <= 10  # each costs 5e-4, and the next is reckoned at 1.3e-3


def test_a_reply_that_never_came_may_have_been_billed_and_one_that_was_refused_was_not(tmp_path):
    most = 64 + len('[{"content":"hi","role":"user"}]') + 10
    budget = {"max_total_tokens": most + most // 2, "max_tokens": 10, "timeout_s": 0.3}
    with replying(lambda n: (429, "no", {"Retry-After": "0"}) if n < 3 else (200, USED, {})) as (url, _):
        assert asked(url, 1, ledger=Ledger(tmp_path / "refused.jsonl", None), **budget)[0].status == "answered"
    with replying(lambda _: (time.sleep(1.0), (200, USED, {}))[1]) as (url, seen), pytest.raises(StudyError, match="budget"):
        asked(url, 1, ledger=Ledger(tmp_path / "silent.jsonl", None), **budget)
    assert len(seen) == 1


def test_a_wrong_key_costs_nothing_and_untold_tokens_cost_the_most(tmp_path):
    most = 64 + len('[{"content":"hi","role":"user"}]') + 10
    budget = {"max_total_tokens": 2 * most, "max_tokens": 10}
    path = tmp_path / "ledger.jsonl"
    with replying(lambda n: (401, "who?", {}) if n < 3 else (400, "no", {}) if n < 6 else (200, OK, {})) as (url, seen):
        for _ in range(3):
            with pytest.raises(StudyError, match="HTTP 401"):
                asked(url, 1, ledger=Ledger(path, None), **budget)
        replies = asked(url, 5, ledger=Ledger(path, None), **budget)
        assert [reply.status for reply in replies] == ["server_error"] * 3 + ["answered"] * 2
        with pytest.raises(StudyError, match="budget"):
            asked(url, 1, ledger=Ledger(path, None), **budget)
    assert len(seen) == 8


def test_wrong_requests_in_a_row_do_not_mean_that_the_judge_is_down():
    with replying(lambda n: (400, "too long", {}) if n < 12 else (200, OK, {})) as (url, _):
        assert [reply.status for reply in asked(url, 14)] == ["server_error"] * 12 + ["answered"] * 2


def test_what_may_have_been_billed_counts(tmp_path):
    judge = Judge(model="m", base_url="http://x", max_total_tokens=100)
    ledger = Ledger(tmp_path / "ledger.jsonl", judge)
    assert ledger.reserve("killed", Usage(0, 60))
    assert ledger.reserve("refused", Usage(0, 30))
    assert not Ledger(ledger.path, judge).reserve("next", Usage(0, 30))
    ledger.settle("refused", Usage())
    with ledger.path.open("a") as file:
        file.write('{"reserve": "torn by a ki')
    assert Ledger(ledger.path, judge).reserve("next", Usage(0, 40))
    assert not ledger.reserve("over", Usage(0, 1))


def test_a_full_disk_ends_with_one_line():
    with (
        pytest.raises(StudyError, match=r"^/dev/full: the disk is full; make room and run again, what stands there is kept$"),
        open_journal(Path("/dev/full")) as append,
    ):
        append(Reply(key="a", status="answered", text="", tstamp=0.0))


def test_a_torn_line_is_dropped_and_closed(tmp_path):
    path = tmp_path / "journal.jsonl"
    first, second = (Reply(key=key, status="answered", text="\u2028 é", tstamp=0.0) for key in "ab")
    with open_journal(path) as append:
        append(first)
    path.write_bytes(path.read_bytes() + b'{"key": "torn", "text": "\xc3')
    assert read_journal(path, Reply) == [first]
    with open_journal(path) as append:
        append(second)
    assert read_journal(path, Reply) == [first, second]
    assert read_journal(tmp_path / "none", Reply) == []
