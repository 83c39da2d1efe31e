"""The judge under faults, and the judging process killed: no verdict is lost, none is asked for again once it is on disk."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from evaluation_toys import Toy, make_mt_suite, make_toy, write_jsonl
from judge_toys import FAULTS, FaultyJudge, serving

from sftstudy import spec
from sftstudy.config import Judge
from sftstudy.evaluate.client import Reply
from sftstudy.evaluate.journal import read_journal
from sftstudy.evaluate.mt_bench import answer
from sftstudy.hours import read_attempts

ROOT = Path(__file__).parents[2]
KEY = "sk-a-very-secret-key"
CONCURRENCY = 8


def make_drill(folder: Path, url: str) -> tuple[Toy, spec.SuiteSpec]:
    """A stage with answers to 80 questions, and a judge that is reached with a key."""
    toy = make_toy(folder)
    judge = Judge(model="gpt-4", base_url=url, api_key_env="DRILL_KEY", timeout_s=0.5, concurrency=CONCURRENCY, num_retries=6)
    suite = make_mt_suite(folder, judge=judge, max_failure_share=0.2, references=False, checkpoints_per_job=1)
    write_jsonl(
        folder / "questions.jsonl",
        [{"question_id": 81 + i, "category": "writing", "turns": [f"say {i}", "say again"]} for i in range(80)],
    )
    spec.write(toy.results / "spec.yaml", toy.stage)
    spec.write(toy.layout.suite_spec(suite.name), suite)
    answer(toy.stage, suite, part="part01", checkpoints=toy.checkpoints[:1], layout=toy.layout)
    return toy, suite


def start(toy: Toy, suite: spec.SuiteSpec, errors: Path, **variables: str) -> subprocess.Popen:
    specs = [toy.results / "spec.yaml", toy.layout.suite_spec(suite.name)]
    program = [sys.executable, ROOT / "workflow/scripts/judge_mt_bench.py", *specs, "--part", "part01"]
    roots = ["--results", toy.layout.results, "--scratch", toy.layout.scratch]
    with errors.open("a") as file:
        return subprocess.Popen([*program, *roots], env=os.environ | {"DRILL_KEY": KEY} | variables, stderr=file, stdout=file)


NUM_KILLS = 3


def test_all_160_verdicts_come_in_although_the_process_is_killed(tmp_path):
    judge = FaultyJudge(share=0.2, hang_s=1.0)
    with serving(judge) as url:
        toy, suite = make_drill(tmp_path, url)
        journal = toy.scratch / "scores/toy-mt/ckpt01.replies.jsonl"
        errors = tmp_path / "stderr.txt"
        stored: list[set[str]] = []
        for kill in range(NUM_KILLS):
            reached = threading.Event()
            judge.on_verdict = lambda total, until=40 * (kill + 1), event=reached: event.set() if total >= until else None
            process = start(toy, suite, errors)
            assert reached.wait(timeout=60), errors.read_text()
            process.send_signal(signal.SIGKILL)
            process.wait()
            lines = journal.read_bytes().split(b"\n")[:-1]
            stored.append({json.loads(line)["key"] for line in lines if line})
            assert len(stored[-1]) >= 40 * (kill + 1) - CONCURRENCY * (kill + 1)
        judge.on_verdict = lambda _: None
        assert start(toy, suite, errors).wait(timeout=120) == 0, errors.read_text()

    judgments = [json.loads(line) for line in (toy.results / "scores/toy-mt/part01.judgments.jsonl").read_text().splitlines()]
    statuses = Counter(line["status"] for line in judgments)
    assert sorted((line["question_id"], line["turn"]) for line in judgments) == [(q, t) for q in range(81, 161) for t in (1, 2)]
    assert statuses.total() == 160
    assert set(statuses) == {"ok", "unparsable", "refused"}
    assert set(judge.faults) == set(FAULTS)
    # what was on disk when the process was killed is never asked for again; only what was under way may be
    keys = [reply.key for reply in read_journal(journal, Reply)]
    assert len(keys) == len(set(keys)) == 160
    prompts = {line["user_prompt"] for line in judgments}
    assert set(judge.verdicts) == prompts
    assert sum(count - 1 for count in judge.verdicts.values()) <= NUM_KILLS * CONCURRENCY
    assert all(earlier <= later for earlier, later in zip(stored, [*stored[1:], set(keys)], strict=True))
    # every start is on file, and its replies
    attempts = read_attempts(toy.layout)
    assert [one.outcome for one in attempts] == [None] * NUM_KILLS + ["finished"]
    assert (attempts[-1].units_before, attempts[-1].safe_units) == (len(stored[-1]), 160 - len(stored[-1]))
    # another run asks nobody
    before = len(judge.requests)
    assert start(toy, suite, errors).wait(timeout=60) == 0
    assert len(judge.requests) == before
    # and the key is nowhere
    texts = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(texts) > 10
    assert [path for path, text in texts.items() if KEY.encode() in text] == []
    assert b"***" in texts[journal]


def test_a_double_waits_or_says_so_and_asks_nothing(tmp_path):
    """As after a Snakemake that was killed, beside whose orphan the next one submits the same job."""
    judge = FaultyJudge(share=0.0, hang_s=1.0)
    with serving(judge) as url:
        toy, suite = make_drill(tmp_path, url)
        under_way = threading.Event()
        judge.on_verdict = lambda total: under_way.set() if total >= 8 else None
        first = start(toy, suite, tmp_path / "first.txt")
        assert under_way.wait(timeout=60)
        first.send_signal(signal.SIGSTOP)
        by_hand, in_a_job = tmp_path / "by_hand.txt", tmp_path / "in_a_job.txt"
        assert start(toy, suite, by_hand).wait(timeout=60) == 1
        assert f"another process works on it (process {first.pid} on " in by_hand.read_text()
        second = start(toy, suite, in_a_job, SLURM_JOB_ID="7")
        while f"waits for process {first.pid}" not in in_a_job.read_text():
            assert second.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGCONT)
        assert [process.wait(timeout=120) for process in (first, second)] == [0, 0]
    assert len(judge.verdicts) == 160
    # what was under way when the first was stopped has timed out
    assert sum(count - 1 for count in judge.verdicts.values()) <= CONCURRENCY
