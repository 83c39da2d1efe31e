import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from evaluation_toys import make_model, make_mt_suite, make_tokenizer, make_toy, write_jsonl

from sftstudy import spec
from sftstudy.config import Judge, LocalFile
from sftstudy.errors import StudyError
from sftstudy.evaluate import local_server, servers
from sftstudy.evaluate.budget import Ledger
from sftstudy.evaluate.client import Request, ask
from sftstudy.evaluate.generate import generate, stop_tokens
from sftstudy.evaluate.judge import judge
from sftstudy.evaluate.mt_bench import answer
from sftstudy.evaluate.servers import serve_vllm
from sftstudy.hours import read_attempts

ROOT = Path(__file__).parents[2]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
VLLM = Judge(model="judge-7b", server="vllm", weights="some-model", server_options=["--dtype=float16"])

FAKE_VLLM = f"""#!{sys.executable}
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
if "--dtype=bad" in sys.argv:
    sys.exit("cannot load that")
print(json.dumps(sys.argv[1:]), flush=True)
worker = subprocess.Popen(["sleep", "600"], start_new_session=True)
print("pids", os.getpid(), worker.pid, flush=True)
time.sleep(0.3)  # "loading"
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"{{}}")
    def log_message(self, *_): pass
port = next(int(word.partition("=")[2]) for word in sys.argv if word.startswith("--port="))
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def short_prompts(folder: Path) -> LocalFile:
    """A judge's prompts that fit into a toy's context."""
    names = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
    shared = {"type": "single", "system_prompt": "again", "output_format": "[[rating]]"}
    asked = [{"name": name, "prompt_template": "is {answer_2} red" if "turn" in name else "is {answer} red"} for name in names]
    write_jsonl(folder / "prompts.jsonl", [prompt | shared for prompt in asked])
    return LocalFile(path=str(folder / "prompts.jsonl"))


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vllm").write_text(FAKE_VLLM)
    (folder / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids_in(log: Path) -> list[int]:
    return [int(word) for line in log.read_text().splitlines() if line.startswith("pids") for word in line.split()[1:]]


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_alive, pids)):
        time.sleep(0.05)
    return bool(pids) and not any(map(is_alive, pids))


def test_vllm_is_started_waited_for_and_stopped_with_its_workers(fake_vllm, tmp_path):
    log = tmp_path / "server.log"
    with serve_vllm(VLLM, Path("weights/folder"), log=log) as url:
        assert DIRECT.open(f"{url}/models", timeout=5).status == 200
        pids = pids_in(log)
        assert len(pids) == 2
        assert all(map(is_alive, pids))
    assert gone(pids)
    words = json.loads(log.read_text().splitlines()[0])
    assert words[:2] == ["serve", "weights/folder"]
    assert {"--served-model-name=judge-7b", "--dtype=float16", "--host=127.0.0.1"} <= set(words)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_vllm_goes_when_the_job_is_ended(fake_vllm, tmp_path, number):
    log = tmp_path / "server.log"
    code = (
        "import time; from pathlib import Path; from sftstudy.config import Judge\n"
        "from sftstudy.evaluate.servers import serve_vllm\n"
        "with serve_vllm(Judge(model='m', server='vllm', weights='w'), Path('w'), log=Path('server.log')):\n"
        "    print('ready', flush=True); time.sleep(600)"
    )
    job = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "ready\n"
    server, worker = pids_in(log)
    job.send_signal(number)
    assert job.wait(timeout=20) == (143 if number == signal.SIGTERM else -9)
    assert gone([server, worker])


REAL_SERVER = f"""#!{sys.executable}
# stands for `vllm serve`: our own chat server with the model, on the port that is asked for, and an engine in a session of its own
import os, subprocess, sys, time
from pathlib import Path
from sftstudy.evaluate import chat_server, local_server
port = next(int(word.partition("=")[2]) for word in sys.argv if word.startswith("--port="))
class Server(chat_server.ThreadingHTTPServer):
    def __init__(self, address, handler):
        handler.do_GET = lambda request: request.send_error(200)
        super().__init__((address[0], port), handler)
chat_server.ThreadingHTTPServer = Server
engine = subprocess.Popen(["sleep", "600"], start_new_session=True)
print("pids", os.getpid(), engine.pid, flush=True)
with local_server.serve(Path(sys.argv[2]), max_batch=8):
    time.sleep(600)
"""


@pytest.mark.parametrize("ended_by", ["preemption", "SIGKILL"])
@pytest.mark.parametrize("server", ["vllm", "transformers"])
def test_a_local_judge_goes_with_its_job(server, ended_by, tmp_path):
    """The real program and the real chat server at work. SLURM preempts by SIGTERM and SIGCONT, and kills later."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/vllm").write_text(REAL_SERVER)
    (tmp_path / "bin/vllm").chmod(0o755)
    toy, judge = make_toy(tmp_path), Judge(model="own", server=server, weights="tiny", max_tokens=32, num_judgings=200)
    suite = make_mt_suite(tmp_path, judge=judge, prompts=short_prompts(tmp_path))
    suite = suite.model_copy(update={"model_hashes": {"tiny": toy.stage.model_hash}})
    answer(toy.stage, suite, part="part01", checkpoints=["ckpt01", "ckpt02"], layout=toy.layout)
    spec.write(toy.results / "spec.yaml", toy.stage)
    spec.write(toy.layout.suite_spec(suite.name), suite)
    program = [sys.executable, ROOT / "workflow/scripts/judge_mt_bench.py"]
    specs = [toy.results / "spec.yaml", toy.layout.suite_spec(suite.name), "--part", "part01"]
    roots = ["--results", toy.layout.results, "--scratch", toy.layout.scratch]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [*program, *specs, *roots],
            env=os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            stderr=log,
            start_new_session=True,
        )
    journal = toy.scratch / "scores/toy-mt/ckpt01.replies.jsonl"
    while not (journal.is_file() and journal.stat().st_size):
        assert job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    family = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    ports = [found.laddr.port for process in family for found in process.net_connections() if found.status == psutil.CONN_LISTEN]
    assert (len(family), len(ports)) == ((4, 1) if server == "vllm" else (1, 1))
    for number in (signal.SIGTERM, signal.SIGCONT) if ended_by == "preemption" else (signal.SIGKILL,):
        os.kill(job.pid, number)
    assert job.wait(timeout=30) != 0
    assert gone([process.pid for process in family])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", ports[0])) != 0
    (attempt,) = read_attempts(toy.layout)
    assert attempt.outcome == ("stopped" if (server, ended_by) == ("vllm", "preemption") else None)


def test_what_vllm_cannot_load_is_told(fake_vllm, tmp_path):
    bad = VLLM.model_copy(update={"server_options": ["--dtype=bad"]})
    with (
        pytest.raises(StudyError, match=r"judge judge-7b: vllm ended with status 1 before it answered; \S*server.log says why"),
        serve_vllm(bad, Path("w"), log=tmp_path / "server.log"),
    ):
        pass
    assert "cannot load that" in (tmp_path / "server.log").read_text()


def test_a_server_of_another_job_on_the_same_port_is_not_taken_for_ours(fake_vllm, tmp_path, monkeypatch):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr(servers, "_free_port", lambda: other.server_port)
        with (
            pytest.raises(StudyError, match="vllm ended with status 1 before it answered"),
            serve_vllm(VLLM, Path("w"), log=tmp_path / "log"),
        ):
            pass
        other.shutdown()
    assert "Address already in use" in (tmp_path / "log").read_text()


def test_vllm_is_asked_for_by_name_if_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(StudyError, match="judge judge-7b: vllm is not installed; install it beside sftstudy, or set `server"),
        serve_vllm(VLLM, Path("w"), log=tmp_path / "server.log"),
    ):
        pass


def test_a_batch_of_chats_is_answered_as_each_alone():
    model, tokenizer = make_model(seed=2), make_tokenizer()
    bodies = [
        {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": heat, "seed": seed}
        for text, tokens, heat, seed in [
            ("say red", 8, 0, 0),
            ("what colour is a hat ?", 3, 0, 0),
            ("say red", 8, 1.0, 0),
            ("say red", 8, 1.0, 1),
        ]
    ]
    together = local_server.complete(model, tokenizer, bodies)
    assert together == [local_server.complete(model, tokenizer, [body])[0] for body in bodies]
    assert len({completion.text for completion in together}) > 2
    prompt = tokenizer("<|user|> say red <|end|> <|assistant|>", add_special_tokens=False).input_ids
    greedy = generate(model, [prompt], temperatures=[0], seeds=[0], max_new_tokens=8, stop_ids=stop_tokens(model, tokenizer))[0]
    first = together[0]
    assert first.text == tokenizer.decode(greedy, skip_special_tokens=True)
    assert (first.prompt_tokens, first.completion_tokens) == (len(prompt), len(greedy))
    assert {(of.finish_reason, of.completion_tokens == limit) for of, limit in zip(together, (8, 3, 8, 8), strict=True)} <= {
        ("length", True),
        ("stop", False),
    }


def test_a_model_of_ours_judges_in_the_job(tmp_path):
    toy = make_toy(tmp_path)
    own = Judge(model="tiny-as-a-judge", server="transformers", weights="tiny", max_tokens=4, concurrency=4)
    suite = make_mt_suite(tmp_path, judge=own, prompts=short_prompts(tmp_path), max_failure_share=1.0)
    suite = suite.model_copy(update={"model_hashes": {"tiny": toy.stage.model_hash}})
    answer(toy.stage, suite, part="part01", checkpoints=["ckpt01"], layout=toy.layout)
    record = judge(toy.stage, suite, part="part01", checkpoints=["ckpt01"], layout=toy.layout)
    of = record.judging[0]
    assert (of.judge, of.verdicts) == ("tiny-as-a-judge", {"unparsable": 8})
    assert 0 < of.completion_tokens <= 32
    assert of.prompt_tokens > 50
    assert record.versions["transformers"] != "missing"
    score = record.scores[0]
    assert (score.value, score.failure_share, score.lowest, score.highest) == (None, 1.0, 1.0, 10.0)
    other = suite.model_copy(update={"model_hashes": {"tiny": "other"}})
    with pytest.raises(StudyError, match=r"model.json: made from another spec than today's"):
        judge(toy.stage, other, part="part01", checkpoints=["ckpt01"], layout=toy.layout)


def test_a_request_that_cannot_be_answered_fails_alone(tmp_path):
    make_model(seed=0).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    chat = [{"role": "user", "content": "say red"}]
    long = [{"role": "user", "content": "red " * 80}]
    bodies = [{"messages": chat}, {"messages": chat, "temperature": "hot"}, {"messages": long}, {"messages": chat}]
    judge = Judge(model="m", server="transformers", weights="tiny", max_tokens=2, num_retries=0)
    requests = [Request(f"k{number}", {"model": "m", "max_tokens": 2} | body) for number, body in enumerate(bodies)]
    with local_server.serve(tmp_path, max_batch=4) as url:
        replies = ask(judge, requests, base_url=url, append=lambda *_: None, ledger=Ledger(tmp_path / "none", judge))
    assert [replies[f"k{number}"].status for number in range(4)] == ["answered", "server_error", "server_error", "answered"]
    assert "could not convert string to float" in replies["k1"].text
    assert replies["k2"].text.startswith("HTTP 400: the prompt has 8")
