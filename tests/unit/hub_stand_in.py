"""A hub of data sets on this machine: serves a folder of repositories, by as much of the hub's protocol as `datasets` uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

REVISION = "1" * 40


@contextmanager
def serve(folder: Path, *, gated: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Yields the address and the list of paths that were asked for so far. `gated` repositories are refused."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

        def _answer(self, body: str = "") -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
            name, rest = "/".join(parts[:2]), parts[2:]
            files = {str(file.relative_to(folder / name)): file for file in sorted((folder / name).rglob("*")) if file.is_file()}
            if not files:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif name in gated and (rest[:1] == ["resolve"] or path.startswith("/datasets")):
                self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to dataset {name} is restricted"})
            elif rest[:1] == ["resolve"]:
                file = files.get("/".join(rest[2:]))
                if file is None:
                    self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                else:
                    content = file.read_bytes()
                    self._send(200, content, {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
            elif rest[:1] == ["tree"]:
                below = "/".join(rest[2:])
                found = [self._entry(key, file) for key, file in files.items() if key.startswith(below)]
                self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})
            elif rest[:1] == ["paths-info"]:
                wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
                found = [self._entry(key, files[key]) for key in wanted if key in files]
                self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})
            else:
                info = {
                    "id": name,
                    "sha": REVISION,
                    "private": False,
                    "gated": "manual" if name in gated else False,
                    "disabled": False,
                }
                info |= {"tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": key} for key in files]}
                self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def _entry(self, key: str, file: Path) -> dict[str, object]:
            content = file.read_bytes()
            return {"type": "file", "path": key, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
