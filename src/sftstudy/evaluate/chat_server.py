"""An HTTP server on a free local port that speaks the OpenAI chat protocol; what it answers is a function's affair."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Completion:
    """A reply to a chat. With another HTTP status than 200 the text says what went wrong."""

    text: str
    status: int = 200
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


@contextmanager
def serve_chat(answer: Callable[[dict[str, Any]], Completion]) -> Iterator[str]:
    """Serve `answer`, body of a request -> completion, from as many threads as there are connections; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            completion = answer(request)
            body = json.dumps(_reply(request, completion)).encode()
            self.send_response(completion.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the job's log for what matters."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def _reply(request: dict[str, Any], completion: Completion) -> dict[str, Any]:
    if completion.status != 200:
        return {"error": {"message": completion.text}}
    tokens = {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.completion_tokens}
    message = {"role": "assistant", "content": completion.text}
    return {
        "id": "local",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": completion.finish_reason}],
        "usage": tokens | {"total_tokens": sum(tokens.values())},
    }
