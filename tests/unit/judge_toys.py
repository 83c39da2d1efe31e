"""A judge over HTTP that misbehaves, and counts what it did."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("429", "429 with Retry-After", "500", "time-out", "dropped", "not JSON", "no choices", "refused", "unparsable")


class FaultyJudge:
    """Answers `share` of its requests by one of `FAULTS` in turn, and the others by a rating that depends on the prompt alone."""

    def __init__(self, *, share: float, hang_s: float) -> None:
        self.share, self.hang_s = share, hang_s
        self.random, self.lock = random.Random(0), threading.Lock()
        self.faults: Counter[str] = Counter()
        self.requests: list[str] = []
        self.verdicts: Counter[str] = Counter()
        self.on_verdict: Callable[[int], None] = lambda _: None

    def fault(self) -> str | None:
        with self.lock:
            if self.random.random() >= self.share:
                return None
            name = FAULTS[sum(self.faults.values()) % len(FAULTS)]
            self.faults[name] += 1
            return name

    def answered(self, prompt: str) -> None:
        with self.lock:
            self.verdicts[prompt] += 1
            total = sum(self.verdicts.values())
        self.on_verdict(total)


@contextmanager
def serving(judge: FaultyJudge) -> Iterator[str]:
    """The judge's base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = request["messages"][-1]["content"]
            with judge.lock:
                judge.requests.append(prompt)
            said = self.headers.get("Authorization", "")
            match judge.fault():
                case "429":
                    self.reply(429, json.dumps({"error": {"message": f"too fast, {said}", "code": "rate_limit_exceeded"}}))
                case "429 with Retry-After":
                    self.reply(429, json.dumps({"error": {"message": f"too fast, {said}"}}), {"Retry-After": "0.05"})
                case "500":
                    self.reply(500, f"<html>oops {said}</html>")
                case "time-out":
                    time.sleep(judge.hang_s)
                case "dropped":
                    self.close_connection = True
                    self.connection.close()
                case "not JSON":
                    self.reply(200, f"<html>busy {said}</html>")
                case "no choices":
                    self.reply(200, json.dumps({"choices": [], "said": said}))
                case "refused":
                    self.verdict(prompt, {"refusal": f"I would rather not, {said}", "content": None})
                case "unparsable":
                    self.verdict(prompt, {"content": f"No rating from me, {said}"})
                case _:
                    self.verdict(prompt, {"content": f"Rating: [[{len(prompt) % 10 + 1}]] {said}"})

        def verdict(self, prompt, message):
            judge.answered(prompt)
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "stop"}
            self.reply(200, json.dumps({"choices": [choice], "usage": usage}))

        def reply(self, status, text, headers=None):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_):
            """A client that was killed is no error of ours."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
