import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from evaluation_toys import PROMPTS, RULE, Toy, make_mt_suite, make_tokenizer, make_toy, write_pair_prompts

from sftstudy import spec
from sftstudy.config import Judge, LocalFile
from sftstudy.errors import StudyError
from sftstudy.evaluate import prompts as prompts_module
from sftstudy.evaluate import verdicts
from sftstudy.evaluate.judge import judge
from sftstudy.evaluate.judgments import summarize_judgments
from sftstudy.evaluate.mt_bench import answer
from sftstudy.hashes import sha256_of
from sftstudy.records import ScoreRecord

MT_BENCH = Path(os.environ.get("MT_BENCH_FILES", "MT_BENCH_FILES-is-not-set"))


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> Toy:
    """A stage whose first checkpoint has answered four questions."""
    folder = tmp_path_factory.mktemp("toy")
    toy = make_toy(folder)
    answer(toy.stage, make_mt_suite(folder), part="part01", checkpoints=["ckpt01"], layout=toy.layout)
    return toy


@pytest.fixture
def toy(answered) -> Toy:
    """The same, without verdicts of an earlier test."""
    journal_of(answered).unlink(missing_ok=True)
    return answered


def judged(toy: Toy, suite: spec.SuiteSpec) -> ScoreRecord:
    return judge(toy.stage, suite, part="part01", checkpoints=["ckpt01"], layout=toy.layout)


def journal_of(toy: Toy) -> Path:
    return toy.scratch / "scores/toy-mt/ckpt01.replies.jsonl"


def judgments(toy: Toy) -> list[dict]:
    return [json.loads(line) for line in (toy.results / "scores/toy-mt/part01.judgments.jsonl").read_text().splitlines()]


@contextmanager
def scripted(*replies: tuple[int, str] | Callable, usage: dict | None = None) -> Iterator[tuple[str, list[dict]]]:
    """A server that gives the replies (HTTP status, text) in turn and the last one for ever; yields its URL and the requests.

    A reply may also be a function of the request.
    """
    left, requests = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = left.pop(0) if len(left) > 1 else left[0]
            status, text = reply(requests[-1]) if callable(reply) else reply
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps(
                {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
            ).encode()
            if status != 200:
                body = json.dumps({"error": {"message": text, "code": text}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
        server.shutdown()


def with_judge(url: str, **settings) -> Judge:
    return Judge(model="scripted", base_url=url, **({"concurrency": 1, "num_retries": 0} | settings))


def test_patterns_and_categories_are_fastchats():
    from fastchat.llm_judge import common

    assert common.one_score_pattern.pattern == verdicts.RATING.pattern
    assert common.one_score_pattern_backup.pattern == verdicts.RATING_BACKUP.pattern
    assert [name for name in common.NEED_REF_CATS if "arena" not in name] == list(prompts_module.NEED_REFERENCE)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[7]]", 7),
        ("[[8.5]] good", 8.5),
        ("see [3], Rating: [[9]]", 9),
        ("Rating: [6]", 6),
        ("Rating: 7", None),
        ("[[0]]", None),
        ("[[55]]", None),
    ],
)
def test_read_rating(text, rating):
    assert verdicts.read_rating(text) == rating


def test_the_rule_judge_scores_a_part(toy, tmp_path):
    record = judged(toy, make_mt_suite(tmp_path))
    lines, rows = judgments(toy), {row.task: row for row in record.scores}
    assert [(line["question_id"], line["turn"]) for line in lines] == [(q, t) for q in (81, 82, 83, 84) for t in (1, 2)]
    ratings = [line["score"] for line in lines]
    assert rows["toy-mt"].value == sum(ratings) / 8
    assert rows["turn1"].value == sum(ratings[0::2]) / 4
    assert rows["turn2"].value == sum(ratings[1::2]) / 4
    assert rows["writing"].value == sum(ratings[0:2] + ratings[6:8]) / 4
    assert (rows["toy-mt"].judge, rows["toy-mt"].failure_share, rows["toy-mt"].num_items) == ("lcs-rule", 0.0, 8)
    of_questions = [(ratings[i] + ratings[i + 1]) / 2 for i in range(0, 8, 2)]
    mean = sum(of_questions) / 4
    assert rows["toy-mt"].stderr == pytest.approx((sum((value - mean) ** 2 for value in of_questions) / 3 / 4) ** 0.5)
    items = pq.read_table(toy.results / "scores/toy-mt/part01.parquet").to_pylist()
    assert [(item["item"], item["task"], item["value"]) for item in items[:3]] == [
        ("81.1", "writing", ratings[0]),
        ("81.2", "writing", ratings[1]),
        ("82.1", "math", ratings[2]),
    ]


def test_fastchats_own_table_shows_our_score(toy, tmp_path):
    replies = [(200, "no rating"), (200, "[[0]]"), *((200, f"so: [[{n}]]") for n in (3, 7.5, 9, 10, 1, 4))]
    with scripted(*replies) as (url, _):
        record = judged(toy, make_mt_suite(tmp_path, judge=with_judge(url), max_failure_share=0.5))
    folder = tmp_path / "data/mt_bench/model_judgment"
    folder.mkdir(parents=True)
    (folder / "scripted_single.jsonl").write_text((toy.results / "scores/toy-mt/part01.judgments.jsonl").read_text())
    program = [sys.executable, "-m", "fastchat.llm_judge.show_result", "--judge-model=scripted"]
    printed = subprocess.run(program, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True).stdout
    shown = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("tiny/toys")]
    rows = {row.task: row.value for row in record.scores}
    assert shown == pytest.approx([rows["turn1"], rows["turn2"], rows["toy-mt"]], abs=1e-6)
    assert rows["toy-mt"] == pytest.approx((3 + 7.5 + 9 + 10 + 1 + 4) / 6)


def test_no_answer_is_judged_twice(toy, tmp_path):
    with scripted((200, "Rating: [[7]]")) as (url, requests):
        suite = make_mt_suite(tmp_path, judge=with_judge(url))
        first = judged(toy, suite)
        assert len(requests) == 8
        assert judged(toy, suite) == first
        assert len(requests) == 8
        with scripted((200, "Rating: [[2]]")) as (moved, others):
            elsewhere = make_mt_suite(tmp_path, judge=with_judge(moved, concurrency=3, num_retries=1))
            assert judged(toy, elsewhere).scores == first.scores
            assert others == []
            judged(toy, make_mt_suite(tmp_path, judge=with_judge(moved, max_tokens=9)))
            assert len(others) == 8
    assert requests[0]["temperature"] == 0
    assert [message["role"] for message in requests[0]["messages"]] == ["system", "user"]


def test_a_killed_job_judges_only_the_rest(toy, tmp_path):
    with scripted((200, "Rating: [[7]]")) as (url, requests):
        suite = make_mt_suite(tmp_path, judge=with_judge(url))
        first = judged(toy, suite)
        journal = journal_of(toy)
        whole = journal.read_text().splitlines()
        journal.write_text("\n".join(whole[:3]) + "\n" + whole[3][:20])  # killed in the middle of a line
        assert judged(toy, suite).scores == first.scores
        assert len(requests) == 8 + 5
        assert judged(toy, suite).scores == first.scores
        assert len(requests) == 8 + 5


def test_a_verdict_that_stands_twice_in_the_journal_counts_once(toy, tmp_path):
    with scripted(*[(200, f"[[{n}]]") for n in range(1, 9)]) as (url, requests):
        suite = make_mt_suite(tmp_path, judge=with_judge(url))
        first = judged(toy, suite)
        lines = journal_of(toy).read_text().splitlines(keepends=True)
        journal_of(toy).write_text("".join(lines + lines[:5]))
        again = judged(toy, suite)
    assert (again.scores, again.judging, len(requests), len(judgments(toy))) == (first.scores, first.judging, 8, 8)


def test_server_errors_are_retried_and_asked_again_by_the_next_job(toy, tmp_path):
    with scripted((500, "down"), (503, "down"), (200, "Rating: [[7]]")) as (url, requests):
        assert judged(toy, make_mt_suite(tmp_path, judge=with_judge(url, num_retries=2))).scores[0].value == 7
        assert len(requests) == 8 + 2
    journal_of(toy).unlink()
    with scripted((500, "down"), (200, "Rating: [[5]]")) as (url, requests):
        suite = make_mt_suite(tmp_path, judge=with_judge(url))
        assert judged(toy, suite).scores[0].failure_share == 1 / 8
        assert [line["status"] for line in judgments(toy)].count("server_error") == 1
        row = judged(toy, suite).scores[0]
        assert (row.value, row.failure_share, len(requests)) == (5, 0.0, 9)


def test_too_many_failures_leave_the_score_empty(toy, tmp_path):
    with scripted((200, "no idea"), (200, "Rating: [[4]]")) as (url, _):
        strict = judged(toy, make_mt_suite(tmp_path, judge=with_judge(url)))
    assert (strict.scores[0].value, strict.scores[0].stderr, strict.scores[0].failure_share) == (None, None, 1 / 8)
    assert [(line["score"], line["status"]) for line in judgments(toy)[:2]] == [(-1, "unparsable"), (4, "ok")]
    assert {row.task: row.value for row in strict.scores}["turn2"] == 4
    items = pq.read_table(toy.results / "scores/toy-mt/part01.parquet").to_pylist()
    assert [item["value"] for item in items[:2]] == [None, 4.0]
    with scripted((200, "no idea"), (200, "Rating: [[4]]")) as (url, _):
        lenient = judged(toy, make_mt_suite(tmp_path, judge=with_judge(url), max_failure_share=0.2))
    assert lenient.scores[0].value == 4


def test_a_content_filter_is_a_refusal(toy, tmp_path):
    with scripted((400, "content_filter"), (200, "Rating: [[4]]")) as (url, _):
        judged(toy, make_mt_suite(tmp_path, judge=with_judge(url)))
    assert judgments(toy)[0]["status"] == "refused"


def test_a_judge_that_never_answers_is_an_error(toy, tmp_path):
    with (
        scripted((401, "bad key")) as (url, _),
        pytest.raises(StudyError, match=r"judge scripted: HTTP 401: bad key; correct the judge"),
    ):
        judged(toy, make_mt_suite(tmp_path, judge=with_judge(url)))
    with pytest.raises(StudyError, match=r"environment variable NO_SUCH_KEY is not set"):
        judged(toy, make_mt_suite(tmp_path, judge=with_judge(url, api_key_env="NO_SUCH_KEY")))


def test_a_few_requests_that_never_succeed_do_not_hold_up_a_score(toy, tmp_path):
    with scripted(*[(200, "[[7]]")] * 7, (400, "too long")) as (url, requests):
        suite = make_mt_suite(tmp_path, judge=with_judge(url), max_failure_share=0.2)
        for _ in range(2):
            record = judged(toy, suite)
            assert (record.scores[0].value, record.judging[0].verdicts) == (7, {"ok": 7, "server_error": 1})
    assert len(requests) == 7 + 2


def test_answers_of_other_settings_are_refused(toy, tmp_path):
    with pytest.raises(StudyError, match=r"answers.jsonl: no answer by today's ckpt01 to question 81.*--forcerun"):
        judged(toy, make_mt_suite(tmp_path, max_new_tokens=5))


def test_math_without_a_reference_is_refused(toy, tmp_path):
    with pytest.raises(StudyError, match="question 82: math needs a reference answer"):
        judged(toy, make_mt_suite(tmp_path, references=False))


def edit_lines(path: Path, change: Callable[[dict], object]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_reference_with_a_single_turn_is_named(toy, tmp_path):
    suite = make_mt_suite(tmp_path)
    edit_lines(tmp_path / "references.jsonl", lambda row: row["choices"][0]["turns"].pop())
    with pytest.raises(StudyError, match=r"^\S*references.jsonl: question 81: 1 of 2 answers; give one to each turn$"):
        judged(toy, suite)
    edit_lines(tmp_path / "references.jsonl", lambda row: row["choices"].pop())
    with pytest.raises(StudyError, match=r"references.jsonl: question 81: 0 of 2 answers"):
        judged(toy, suite)


def test_prompts_references_and_judge_make_the_protocol(toy, tmp_path):
    def protocol(suite: spec.SuiteSpec) -> str:
        hashes = {row.protocol_hash for row in judged(toy, suite).scores}
        assert len(hashes) == 1
        return hashes.pop()

    rule = {"model": "lcs-rule", "server": "rule"}
    suite = make_mt_suite(tmp_path, judge=Judge(**rule))
    found = [protocol(suite)]
    assert protocol(make_mt_suite(tmp_path, judge=Judge(concurrency=2, **rule))) == found[0]
    found.append(protocol(make_mt_suite(tmp_path, judge=Judge(max_tokens=7, **rule))))
    edit_lines(tmp_path / "references.jsonl", lambda row: row["choices"][0].update(turns=["a", "a"]))
    found.append(protocol(suite))
    make_mt_suite(tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(PROMPTS.read_text())
    edit_lines(prompts, lambda row: row.update(system_prompt="Be kind."))
    found.append(protocol(make_mt_suite(tmp_path, prompts=LocalFile(path=str(prompts)))))
    assert len(set(found)) == 4


def test_the_record_says_which_reference_set_was_used(toy, tmp_path):
    suite = make_mt_suite(tmp_path)
    first = judged(toy, suite)
    assert first.files["references"] == sha256_of(tmp_path / "references.jsonl")
    assert set(first.files) == {"questions", "references", "prompts"}
    edit_lines(tmp_path / "references.jsonl", lambda row: row["choices"][0].update(turns=["blue", "blue"]))  # a corrected set
    second = judged(toy, suite)
    assert second.files["references"] == sha256_of(tmp_path / "references.jsonl") != first.files["references"]
    assert second.scores[0].task_version != first.scores[0].task_version


def test_the_first_tokens_of_each_task_are_kept(toy, tmp_path):
    kept = {row.task: row.first_tokens for row in judged(toy, make_mt_suite(tmp_path)).scores}
    user, assistant, end = (make_tokenizer().convert_tokens_to_ids(token) for token in ("<|user|>", "<|assistant|>", "<|end|>"))
    say, red, green = (make_tokenizer().convert_tokens_to_ids(word) for word in ("say", "red", "green"))
    assert kept["toy-mt"] == kept["turn1"] == [user, say, red, end, assistant]
    assert kept["math"] == [user, say, green, end, assistant]


def test_failed_verdicts_bound_the_score(toy, tmp_path):
    replies = [(200, "no idea"), (200, "[[55]]"), (400, "content_filter"), (200, "Rating: [[4]]")]
    with scripted(*replies) as (url, _):
        row = judged(toy, make_mt_suite(tmp_path, judge=with_judge(url), max_failure_share=0.5)).scores[0]
    assert [line["status"] for line in judgments(toy)] == ["unparsable", "unparsable", "refused", *["ok"] * 5]
    assert (row.value, row.failure_share, row.lowest, row.highest) == (4, 3 / 8, (3 * 1 + 5 * 4) / 8, (3 * 10 + 5 * 4) / 8)


def test_several_judgings_are_averaged_and_their_spread_is_told(toy, tmp_path):
    with scripted(*[(200, f"[[{n}]]") for n in (4, 6) * 8]) as (url, requests):
        record = judged(toy, make_mt_suite(tmp_path, judge=with_judge(url, num_judgings=2)))
    assert len(requests) == 16
    row = record.scores[0]
    assert (row.value, row.num_items, row.spread) == (5.0, 8, pytest.approx(2**0.5))
    assert sorted((line["question_id"], line["turn"], line["repeat"]) for line in judgments(toy)) == [
        (q, t, r) for q in (81, 82, 83, 84) for t in (1, 2) for r in (0, 1)
    ]
    assert (record.judging[0].num_judgings, record.judging[0].verdicts, record.judging[0].spread) == (2, {"ok": 16}, row.spread)
    # one more judging asks only for that
    with scripted((200, "[[8]]")) as (url, requests):
        assert judged(toy, make_mt_suite(tmp_path, judge=with_judge(url, num_judgings=3))).scores[0].value == 6.0
    assert len(requests) == 8


def test_a_panel_is_averaged_and_its_disagreement_is_told(toy, tmp_path):
    with scripted((200, "[[4]]")) as (kind, _), scripted((200, "no"), (200, "[[8]]")) as (strict, _):
        judges = [with_judge(kind), with_judge(strict).model_copy(update={"model": "other"})]
        record = judged(toy, make_mt_suite(tmp_path, judges=judges, max_failure_share=0.1))
    row = record.scores[0]
    assert (row.judge, row.value, row.failure_share) == ("scripted + other", (7 * 6 + 4) / 8, 1 / 16)
    assert (row.lowest, row.highest) == ((7 * 6 + 2.5) / 8, (7 * 6 + 7) / 8)
    assert (row.spread, row.disagreement) == (None, 4.0)
    assert [(of.judge, of.value, of.verdicts) for of in record.judging] == [
        ("scripted", 4.0, {"ok": 8}),
        ("other", 8.0, {"ok": 7, "unparsable": 1}),
    ]
    assert [line["judge"][0] for line in judgments(toy)] == ["scripted"] * 8 + ["other"] * 8


def test_tokens_and_cost_are_recorded(toy, tmp_path):
    with scripted((200, "[[4]]"), usage={"prompt_tokens": 100, "completion_tokens": 20}) as (url, _):
        prices = {"price_prompt": 10.0, "price_completion": 30.0}
        of = judged(toy, make_mt_suite(tmp_path, judge=with_judge(url, **prices))).judging[0]
    assert (of.prompt_tokens, of.completion_tokens, of.cost) == (800, 160, pytest.approx(800 * 10e-6 + 160 * 30e-6))


def test_answers_asked_about_in_the_same_words_share_a_reply(answered, tmp_path):
    toy = answered
    suite = make_mt_suite(tmp_path)
    answer(toy.stage, suite, part="part01", checkpoints=toy.checkpoints, layout=toy.layout)
    answers = toy.results / "scores/toy-mt/part01.answers.jsonl"
    edit_lines(answers, lambda row: row.update(choices=[{"index": 0, "turns": ["red", "green"]}]))  # both checkpoints say the same
    with scripted((200, "[[7]]")) as (url, requests):
        suite = make_mt_suite(tmp_path, judge=with_judge(url))
        for _ in range(2):
            record = judge(toy.stage, suite, part="part01", checkpoints=toy.checkpoints, layout=toy.layout)
        assert len(requests) == 8
    lines = judgments(toy)
    assert len({(line["model"], line["question_id"], line["turn"]) for line in lines}) == len(lines) == 16
    assert [row.value for row in record.scores if row.task == "toy-mt"] == [7, 7]
    answer(toy.stage, suite, part="part01", checkpoints=["ckpt01"], layout=toy.layout)


def test_a_request_holds_what_the_endpoint_wants(toy, tmp_path):
    wanted = {"temperature": None, "max_tokens_key": "max_completion_tokens", "merge_system": True, "extra": {"effort": "low"}}
    with scripted((200, "[[4]]")) as (url, requests):
        judged(toy, make_mt_suite(tmp_path, judge=with_judge(url, **wanted)))
    assert set(requests[0]) == {"model", "messages", "max_completion_tokens", "effort"}
    assert [message["role"] for message in requests[0]["messages"]] == ["user"]
    system = json.loads(PROMPTS.read_text().splitlines()[0])["system_prompt"]
    assert requests[0]["messages"][0]["content"].startswith(f"{system}\n")


def test_base_urls_hold_no_keys():
    with pytest.raises(ValueError, match="may hold no key"):
        Judge(model="m", base_url="https://me:sk-secret@host/v1")


# --- pairs


def against(folder: Path, *replies: tuple[str, str]) -> LocalFile:
    rows = [
        {
            "question_id": 81 + i,
            "answer_id": "x",
            "model_id": "baseline",
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": 0,
        }
        for i, turns in enumerate(replies)
    ]
    (folder / "against.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LocalFile(path=str(folder / "against.jsonl"))


def make_pair_suite(folder: Path, judge: Judge, against: LocalFile | str) -> spec.SuiteSpec:
    return make_mt_suite(folder, judge=judge, against=against, prompts=write_pair_prompts(folder / "pairs.jsonl"))


def prefers(request: dict) -> tuple[int, str]:
    """A judge of pairs that prefers answers with the word BETTER, wherever they stand, and else the first."""
    first, _, second = request["messages"][-1]["content"].partition("second:")
    return 200, "[[B]]" if "BETTER" in second and "BETTER" not in first else "[[A]]"


def test_pairs_are_judged_in_both_orders_and_show_result_gives_our_win_rate(toy, tmp_path):
    baseline = against(tmp_path, ("WORSE", "WORSE"), ("BETTER", "BETTER"), ("WORSE", "BETTER"), ("so so", "so so"))
    with scripted(prefers) as (url, requests):
        record = judged(toy, make_pair_suite(tmp_path, with_judge(url), baseline))
    assert len(requests) == 16
    # where nobody says BETTER the judge takes whatever stands first: inconsistent, which counts as a tie
    values = {row.task: row.value for row in record.scores}
    assert (values["toy-mt"], values["turn1"], values["turn2"]) == ((5 * 0.5) / 8, (3 * 0.5) / 4, (2 * 0.5) / 4)
    assert (record.scores[0].metric, record.scores[0].lowest) == ("win_rate", values["toy-mt"])
    assert [line["g1_winner"] for line in judgments(toy)][:3] == ["model_1", "model_1", "model_2"]
    program = [
        sys.executable,
        "-m",
        "fastchat.llm_judge.show_result",
        "--mode",
        "pairwise-baseline",
        "--baseline-model",
        "baseline",
    ]
    path = toy.results / "scores/toy-mt/part01.judgments.jsonl"
    shown = subprocess.run([*program, "--input-file", path], capture_output=True, text=True, check=True).stdout
    (row,) = [line for line in shown.splitlines() if line.startswith("tiny/toys")]
    assert float(row.split()[-1]) == pytest.approx(values["toy-mt"])


def test_equal_answers_are_a_tie_that_nobody_is_asked_about(toy, tmp_path):
    lines = [json.loads(line) for line in (toy.results / "scores/toy-mt/part01.answers.jsonl").read_text().splitlines()]
    mine = [tuple(line["choices"][0]["turns"]) for line in lines]
    baseline = against(tmp_path, *mine[:3], (mine[3][0], "WORSE"))
    with scripted(prefers) as (url, requests):
        record = judged(toy, make_pair_suite(tmp_path, with_judge(url), baseline))
    assert (len(requests), record.scores[0].value) == (2, 0.5)


def test_the_base_model_is_an_opponent(toy, tmp_path):
    suite = make_pair_suite(tmp_path, RULE, "base")
    with pytest.raises(StudyError, match=r"none/none/seed0/00-base/scores/toy-mt/part01.answers.jsonl: missing"):
        judged(toy, suite)
    base = toy.layout.stage_results("tiny", "none", "none", 0, "00-base") / "scores/toy-mt/part01.answers.jsonl"
    base.parent.mkdir(parents=True)
    base.write_text(Path(against(tmp_path, *[("BETTER", "BETTER")] * 4).path).read_text())
    with scripted(prefers) as (url, _):
        assert judged(toy, make_pair_suite(tmp_path, with_judge(url), "base")).scores[0].value == 0
    base.unlink()


def test_a_baseline_needs_one_answer_to_each_question(toy, tmp_path):
    with pytest.raises(StudyError, match=r"against.jsonl: no answer to question 83"):
        judged(toy, make_pair_suite(tmp_path, RULE, against(tmp_path, ("a", "b"), ("a", "b"))))
    path = Path(against(tmp_path, *[("a", "b")] * 4).path)
    path.write_text(path.read_text() * 2)
    with pytest.raises(StudyError, match=r"against.jsonl: question 81: two answers; keep those of one model"):
        judged(toy, make_pair_suite(tmp_path, RULE, LocalFile(path=str(path))))


# --- Prometheus

PROMETHEUS = """
ABS_SYSTEM_PROMPT = "Be fair."
ABSOLUTE_PROMPT = \"\"\"Q {instruction} A {response} R {reference_answer} S {rubric} Feedback: \"\"\"
ABSOLUTE_PROMPT_WO_REF = \"\"\"Q {instruction} A {response} S {rubric} Feedback: \"\"\"
HELPFULNESS_RUBRIC = \"\"\"
[Is it helpful?]
\"\"\".strip()
raise SystemExit("this file is read, not run")
"""


def test_prometheus_grades_by_its_own_prompts(toy, tmp_path):
    (tmp_path / "prompts.py").write_text(PROMETHEUS)
    settings = {"format": "prometheus", "prompts": LocalFile(path=str(tmp_path / "prompts.py"))}
    replies = [f"Good. [RESULT] {n}" for n in (1, 2, 3, 4, 5)] + ["So the score is 4", "Score: 3/5", "[RESULT] 7"]
    with scripted(*[(200, text) for text in replies]) as (url, requests):
        record = judged(toy, make_mt_suite(tmp_path, judge=with_judge(url, **settings), max_failure_share=0.5))
    first = json.loads((toy.results / "scores/toy-mt/part01.answers.jsonl").read_text().splitlines()[0])["choices"][0]["turns"]
    sent = [request["messages"] for request in requests]
    assert sent[0][0]["content"] == "Be fair."
    assert sent[0][1]["content"] == f"Q say red A {first[0]} R red S [Is it helpful?] Feedback: "
    talk = f"User: say red\n\nAssistant: {first[0]}\n\nUser: say again"
    assert sent[1][1]["content"] == f"Q {talk} A {first[1]} R red S [Is it helpful?] Feedback: "
    assert [line["score"] for line in judgments(toy)] == [1, 3.25, 5.5, 7.75, 10, -1, 5.5, -1]
    assert record.scores[0].judge == "scripted"
    summary = summarize_judgments(toy.results / "scores/toy-mt/part01.judgments.jsonl")
    (of,) = summary.models.values()
    assert (of.overall.mean, of.overall.num_unparsable) == (record.scores[0].value, 2)
    with pytest.raises(StudyError, match=r"prompts.py: has no text NICE_RUBRIC; name a rubric of it \(HELPFULNESS_RUBRIC\)"):
        judged(toy, make_mt_suite(tmp_path, judge=with_judge(url, rubric="NICE_RUBRIC", **settings)))


@pytest.mark.skipif(not MT_BENCH.is_dir(), reason="set MT_BENCH_FILES to a folder of MT-Bench's own files (CONTRIBUTING.md)")
def test_prompts_equal_fastchats_on_mt_bench_itself(monkeypatch):
    """FastChat renders with a stubbed judge; ours must send the same text for all 80 questions and both turns."""
    from fastchat.llm_judge import common

    from sftstudy.config import MtBenchSuite
    from sftstudy.evaluate.prompts import Asked, FastChatPrompts
    from sftstudy.evaluate.questions import Answer, Choice, read_questions, read_references
    from sftstudy.paths import Layout

    files = {"questions": "question.jsonl", "references": "reference_answer_gpt-4.jsonl", "prompts": "judge_prompts.jsonl"}
    suite = MtBenchSuite(
        kind="mt-bench",
        judges=[Judge(model="gpt-4", base_url="http://x")],
        **{key: LocalFile(path=str(MT_BENCH / name)) for key, name in files.items()},
    )
    questions, references = read_questions(suite, Layout()).questions, read_references(suite, Layout())
    theirs_prompts = common.load_judge_prompts(str(MT_BENCH / "judge_prompts.jsonl"))
    monkeypatch.setattr(common, "chat_completion_openai", lambda *_, **__: "[[5]] [[A]]")
    ours, others = ["{x}", "y"], ["{z}", "w"]
    compared = {"single": 0, "pair": 0}
    for question in questions:
        texts = {"answer_id": "a", "model_id": "m", "tstamp": 0}
        reply, other = (
            Answer(question_id=question.question_id, choices=[Choice(index=0, turns=turns)], **texts) for turns in (ours, others)
        )
        reference = references.get(question.question_id)
        needs = question.category in common.NEED_REF_CATS
        their_reference = {"choices": [{"turns": reference}]} if needs else None
        for kind, shown in (("single", None), ("pair", other)):
            prompts = FastChatPrompts(MT_BENCH / "judge_prompts.jsonl", pairs=kind == "pair")
            for match in prompts.matches(Asked("ckpt01", question, reply, reference, shown)):
                name = f"{kind}-math-v1" if needs else {"single": "single-v1", "pair": "pair-v2"}[kind]
                name += "-multi-turn" if match.turn == 2 else ""
                first, second = (others, ours) if match.game else (ours, others)
                answers = [{"choices": [{"turns": turns}]} for turns in ([ours] if kind == "single" else [first, second])]
                run = common.run_judge_single if kind == "single" else common.run_judge_pair
                their_judge = common.Judge("gpt-4", theirs_prompts[name])
                _, user_prompt, _ = run(question.model_dump(), *answers, their_judge, their_reference, multi_turn=match.turn == 2)
                assert (match.prompt_name, match.user_prompt) == (name, user_prompt)
                compared[kind] += 1
    assert compared == {"single": 160, "pair": 320}
