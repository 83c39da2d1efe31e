import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_toys import COLOURS, TEMPLATE, Toy, make_harness_suite, make_model, make_tokenizer, make_toy, write_jsonl

from sftstudy import hashes, spec, timesheet
from sftstudy.config import HarnessBenchmark, HubSplit, LocalFile
from sftstudy.errors import StudyError
from sftstudy.evaluate import harness, weights
from sftstudy.evaluate.fetch import fetch_suite
from sftstudy.evaluate.harness import score_harness
from sftstudy.evaluate.tasks import load_suite
from sftstudy.hours import read_attempts
from sftstudy.paths import Layout
from sftstudy.records import ScoreRecord


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


def score(toy: Toy, suite: spec.SuiteSpec, checkpoints: list[str] | None = None) -> ScoreRecord:
    fetch_suite(suite, layout=toy.layout)
    return score_harness(toy.stage, suite, part="part01", checkpoints=checkpoints or toy.checkpoints, layout=toy.layout)


def values(toy: Toy, suite: spec.SuiteSpec, *, ckpt: str, task: str) -> list[float]:
    return [row["value"] for row in item_rows(toy, suite) if row["ckpt"] == ckpt and row["task"] == task]


def item_rows(toy: Toy, suite: spec.SuiteSpec) -> list[dict]:
    return pq.read_table(toy.results / "scores" / suite.name / "part01.parquet").to_pylist()


def option_log_probs(model, tokenizer, question: str) -> list[float]:
    """Log-probability of each colour after the question, one forward pass each, no harness."""
    import torch

    prompt = tokenizer(question).input_ids
    with torch.no_grad():
        logits = [
            model(torch.tensor([prompt])).logits[0, -1].log_softmax(dim=0)[tokenizer(colour).input_ids[-1]] for colour in COLOURS
        ]
    return [float(value) for value in logits]


def test_items_equal_a_hand_computation(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    record = score(toy, suite)
    tokenizer, compared = make_tokenizer(), 0
    for place in toy.stage.checkpoints:
        model = make_model(seed=place.step)
        for task in ("toys", "more_toys"):
            rows = [json.loads(line) for line in (tmp_path / f"{task}.jsonl").read_text().splitlines()]
            by_hand = []
            for row in rows:
                log_probs = option_log_probs(model, tokenizer, row["question"])
                by_hand.append(float(log_probs.index(max(log_probs)) == row["answer"]))
            assert values(toy, suite, ckpt=place.ckpt, task=task) == by_hand
            compared += len(by_hand)
    assert compared == 16
    assert {item for place in toy.stage.checkpoints for item in values(toy, suite, ckpt=place.ckpt, task="toys")} == {0.0, 1.0}
    whole = [row for row in record.scores if (row.task, row.metric) == ("colours", "acc")]
    for row, place in zip(whole, toy.stage.checkpoints, strict=True):
        pooled = values(toy, suite, ckpt=place.ckpt, task="toys") + values(toy, suite, ckpt=place.ckpt, task="more_toys")
        assert (row.value, row.num_items) == (sum(pooled) / 8, 8)
        mean = sum(pooled) / 8
        assert row.stderr == pytest.approx((sum((value - mean) ** 2 for value in pooled) / 7 / 8) ** 0.5)
        assert (row.samples_seen, row.ckpt, row.task_version) == (place.num_samples, place.ckpt, "1.0")


def test_scores_equal_what_lm_evals_own_entry_point_reports(toy, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    suite = make_harness_suite(tmp_path)
    ours = {row.task: row for row in score(toy, suite).scores if row.ckpt == "ckpt01"}
    lm = HFLM(pretrained=make_model(seed=1), tokenizer=make_tokenizer(), batch_size=1)
    manager = TaskManager(include_defaults=False, include_path=suite.suite.include_path)
    arguments = {"bootstrap_iters": 1000, "task_manager": manager}
    plain = simple_evaluate(lm, tasks=["toys", "more_toys"], **arguments)["results"]
    chat = simple_evaluate(lm, tasks=["say"], apply_chat_template=True, fewshot_as_multiturn=True, **arguments)["results"]
    for task in ("toys", "more_toys"):
        assert ours[task].value == plain[task]["acc,none"]
        assert ours[task].stderr == pytest.approx(plain[task]["acc_stderr,none"])
    assert ours["say"].value == chat["say"]["exact_match,none"]


def test_macro_average_weighs_tasks_equally(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    benchmark = suite.suite.benchmarks["colours"].model_copy(update={"average": "macro"})
    suite = make_harness_suite(tmp_path, benchmarks={"colours": benchmark})
    rows = {row.task: row for row in score(toy, suite, ["ckpt01"]).scores if row.metric == "acc"}
    assert rows["colours"].value == pytest.approx((rows["toys"].value + rows["more_toys"].value) / 2)
    assert rows["colours"].stderr == pytest.approx((rows["toys"].stderr ** 2 + rows["more_toys"].stderr ** 2) ** 0.5 / 2)


def test_finished_checkpoints_are_not_scored_again(toy, tmp_path, monkeypatch):
    suite = make_harness_suite(tmp_path)
    first = score(toy, suite)
    monkeypatch.setattr(harness, "take_exam", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr(harness, "load_suite", lambda *_, **__: pytest.fail("loaded again"))
    assert score(toy, suite) == first


@pytest.fixture
def taken(monkeypatch) -> list[tuple[str, list[int] | None]]:
    """Tasks and items that are really put to a model, in order."""
    taken, real = [], harness.take_exam

    def take(lm, benchmark, task, exam, items):
        taken.append((task, items))
        return real(lm, benchmark, task, exam, items)

    monkeypatch.setattr(harness, "take_exam", take)
    return taken


def test_a_killed_job_continues_in_the_middle_of_a_task(toy, tmp_path, monkeypatch, taken):
    monkeypatch.setattr(harness, "ITEMS_PER_BLOCK", 2)
    suite, read, count = make_harness_suite(tmp_path), harness.read_samples, iter(range(99))

    def killed(*args, **kwargs):
        if next(count) == 2:
            raise KeyboardInterrupt
        return read(*args, **kwargs)

    monkeypatch.setattr(harness, "read_samples", killed)
    sheet = {"spec_hash": "s", "layout": Layout(tmp_path)}
    with pytest.raises(KeyboardInterrupt), timesheet.opened("score_harness", {"suite": "toy-suite"}, **sheet):
        score(toy, suite, ["ckpt01"])
    with timesheet.opened("score_harness", {"suite": "toy-suite"}, **sheet):
        resumed = score(toy, suite, ["ckpt01"])
    noted = [(one.outcome, one.units_before, one.safe_units) for one in read_attempts(Layout(tmp_path))]
    assert noted == [("stopped", 0, 2), ("finished", 2, 5)]
    blocks = [("toys", [0, 1]), ("toys", [2, 3]), ("toys", [4]), ("more_toys", [0, 1]), ("more_toys", [2])]
    assert taken == blocks[:3] + blocks[2:] + [("say", [0, 1]), ("say", [2, 3])]
    monkeypatch.setattr(harness, "ITEMS_PER_BLOCK", 1000)
    whole = score(toy, suite, ["ckpt01"])
    kept = ("task", "metric", "value", "stderr", "num_items", "items_hash", "first_tokens")
    assert [[getattr(row, name) for name in kept] for row in resumed.scores] == [
        [getattr(row, name) for name in kept] for row in whole.scores
    ]


def test_a_new_benchmark_or_metric_scores_nothing_again(toy, tmp_path, taken):
    both = make_harness_suite(tmp_path).suite.benchmarks
    score(toy, make_harness_suite(tmp_path, benchmarks={"colours": both["colours"]}))
    del taken[:]
    changed = both["colours"].model_copy(update={"chance": 0.5, "average": "macro", "groups": {"few": ["more_toys"]}})
    grown = score(toy, make_harness_suite(tmp_path, benchmarks={"colours": changed, "say": both["say"]}))
    assert taken == [("say", None), ("say", None)]
    assert [(row.task, row.metric) for row in grown.scores] == [
        ("colours", "acc"),
        ("few", "acc"),
        ("colours", "acc_micro"),
        ("toys", "acc"),
        ("more_toys", "acc"),
        ("say", "exact_match"),
    ] * 2


def test_equal_weights_are_scored_once_whatever_their_run_is_called(toy, tmp_path, taken):
    suite = make_harness_suite(tmp_path)
    score(toy, suite)
    del taken[:]
    base = base_of(toy)
    make_model(seed=1).save_pretrained(toy.layout.model_folder("tiny"))  # the weights of ckpt01, now a base model
    record = json.loads(toy.layout.model_record("tiny").read_text())
    text = json.dumps(record | {"weights_hash": hashes.weights_hash(toy.layout.model_folder("tiny"))})
    before = toy.layout.model_record("tiny").read_text()
    toy.layout.model_record("tiny").write_text(text)
    try:
        rows = score(base, suite).scores
    finally:
        toy.layout.model_record("tiny").write_text(before)
        make_model(seed=0).save_pretrained(toy.layout.model_folder("tiny"))
    assert taken == []
    assert {(row.ckpt, row.samples_seen) for row in rows} == {("ckpt00", 0)}


def test_two_checkpoints_of_one_name_never_share(tmp_path, taken):
    suite, first = make_harness_suite(tmp_path), make_toy(tmp_path)
    score(first, suite, ["ckpt01"])
    again = make_toy(tmp_path, seeds=(5, 6))  # the same run, trained to other weights
    score(again, suite, ["ckpt01"])
    assert [task for task, _ in taken] == ["toys", "more_toys", "say"] * 2


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 2}, {"precision": "bf16"}, {"num_fewshot": 1}, {"chat_template": True}, {"template": "<|user|>" + TEMPLATE}],
)
def test_whatever_an_answer_depends_on_is_in_its_key(tmp_path, taken, change):
    toy, suite = make_toy(tmp_path), make_harness_suite(tmp_path)
    edit_task(tmp_path / "tasks/toys.yaml", fewshot_split="test")
    benchmark = HarnessBenchmark(tasks=["toys"], metric="acc", uses=suite.suite.benchmarks["colours"].uses)
    score(toy, make_harness_suite(tmp_path, benchmarks={"b": benchmark}, edit=False), ["ckpt01"])
    if "template" in change:
        toy, change = make_toy(tmp_path, template=change["template"]), {}
    own = {key: value for key, value in change.items() if key in HarnessBenchmark.model_fields}
    rest = {key: value for key, value in change.items() if key not in own}
    other = make_harness_suite(tmp_path, benchmarks={"b": benchmark.model_copy(update=own)}, edit=False, **rest)
    score(toy, other, ["ckpt01"])
    assert [task for task, _ in taken] == ["toys"] * 2


def protocols(toy: Toy, suite: spec.SuiteSpec) -> dict[str, str]:
    """Task -> protocol hash, the same for both checkpoints."""
    pairs = {(row.task, row.protocol_hash) for row in score(toy, suite).scores if not row.metric.endswith("_macro")}
    assert len(pairs) == len(dict(pairs)) == 4
    return dict(pairs)


def edit_task(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_edited_prompts_are_another_protocol(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    before, tasks = protocols(toy, suite), tmp_path / "tasks"
    edit_task(tasks / "toys.yaml", doc_to_text="Q: {{question}}")
    edit_task(tasks / "more_toys.yaml", doc_to_target="{{3 - answer}}")
    edit_task(tasks / "say.yaml", generation_kwargs={"until": ["<|end|>"], "do_sample": False, "max_gen_toks": 3})
    edited = protocols(toy, suite)
    assert [task for task in before if before[task] == edited[task]] == []
    make_harness_suite(tmp_path)
    edit_task(tasks / "say.yaml", num_fewshot=1, fewshot_split="test")
    shots = protocols(toy, suite)
    assert [task for task in before if before[task] != shots[task]] == ["say"]


def test_the_protocol_does_not_depend_on_the_models_template(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    other = make_toy(tmp_path, bos="<s>", template="<s> " + TEMPLATE.replace("<|end|>", "<|end|> <|end|>"))
    assert protocols(other, suite) == protocols(toy, suite)


def test_the_first_tokens_of_each_task_are_kept(tmp_path):
    toy, suite = make_toy(tmp_path, bos="<s>", template=TEMPLATE), make_harness_suite(tmp_path)
    tokenizer = make_tokenizer(bos="<s>")
    kept = {row.task: row.first_tokens for row in score(toy, suite, ["ckpt01"]).scores}
    chat = tokenizer("<|user|> say red <|end|> <|assistant|>").input_ids
    assert kept == {
        "colours": tokenizer("what colour is ball ?").input_ids,
        "toys": tokenizer("what colour is ball ?").input_ids,
        "more_toys": tokenizer("what colour is hat ball ?").input_ids,
        "say": chat,
    }
    assert [ids.count(tokenizer.bos_token_id) for ids in kept.values()] == [1] * 4
    assert {len(ids) for ids in kept.values()} == {6, 7}


def test_an_edited_task_file_is_scored_again(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    score(toy, suite)
    rows = [json.loads(line) for line in (tmp_path / "toys.jsonl").read_text().splitlines()]
    (tmp_path / "toys.jsonl").write_text("".join(json.dumps(row | {"answer": (row["answer"] + 1) % 4}) + "\n" for row in rows))
    before = values(toy, suite, ckpt="ckpt02", task="toys")
    score(toy, suite)
    assert values(toy, suite, ckpt="ckpt02", task="toys") != before


def test_fixed_items_are_scored_and_named(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = make_harness_suite(tmp_path)
    score(toy, suite, ["ckpt02"])
    all_items = values(toy, suite, ckpt="ckpt02", task="toys")
    items = tmp_path / "items.json"
    items.write_text(json.dumps({"toys": [1, 4], "more_toys": [2]}))
    benchmark = suite.suite.benchmarks["colours"].model_copy(update={"items": items.name})
    suite = make_harness_suite(tmp_path, benchmarks={"colours": benchmark})
    whole = score(toy, suite, ["ckpt02"]).scores[0]
    assert values(toy, suite, ckpt="ckpt02", task="toys") == [all_items[1], all_items[4]]
    assert whole.num_items == 3
    for wrong in ({"toys": [4, 1], "more_toys": [2]}, {"toys": [1]}, {"toys": [9], "more_toys": [2]}):
        items.write_text(json.dumps(wrong))
        with pytest.raises(StudyError, match="give ascending item numbers between 0 and"):
            score(toy, suite, ["ckpt02"])


def test_items_are_chosen_by_their_hash_and_not_by_their_place(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    benchmark = suite.suite.benchmarks["colours"].model_copy(update={"num_items_per_task": 2})
    score(toy, suite, ["ckpt01"])
    hashed = {row["item_hash"]: row["value"] for row in item_rows(toy, suite) if row["task"] == "toys"}
    suite = make_harness_suite(tmp_path, benchmarks={"colours": benchmark})
    assert score(toy, suite, ["ckpt01"]).scores[0].num_items == 4
    picked = {row["item_hash"]: row["value"] for row in item_rows(toy, suite) if row["task"] == "toys"}
    assert picked == {name: hashed[name] for name in sorted(hashed)[:2]}
    lines = (tmp_path / "toys.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "toys.jsonl").write_text("".join(lines[::-1]))
    score(toy, suite, ["ckpt01"])
    assert {row["item_hash"] for row in item_rows(toy, suite) if row["task"] == "toys"} == picked.keys()


def test_all_faults_of_a_suite_are_told_in_one_line_before_any_weights_are_looked_at(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    own = {"metric": "acc", "uses": suite.suite.benchmarks["colours"].uses}
    benchmarks = {
        "a": HarnessBenchmark(tasks=["nothing"], **own),
        "b": HarnessBenchmark(tasks=["toys"], filter="strict", **own),
        "c": HarnessBenchmark(tasks=["toys"], num_items=6, **own),
        "d": HarnessBenchmark(tasks=["toys", "more_toys"], num_items=8, items_hash="0", **own),
        "e": HarnessBenchmark(tasks=["toys"], groups={"g": ["more_toys"]}, **own),
        "f": HarnessBenchmark(tasks=["broken"], **own),
    }
    suite = make_harness_suite(tmp_path, benchmarks=benchmarks)
    broken = json.loads((tmp_path / "tasks/toys.yaml").read_text()) | {"task": "broken", "dataset_path": "no/such-data"}
    (tmp_path / "tasks/broken.yaml").write_text(json.dumps(broken))
    with pytest.raises(StudyError) as error:
        fetch_suite(suite, layout=toy.layout)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "6 faults: ",
        "a.tasks: lm-eval knows no nothing",
        "b: filter: toys has no strict; it has none",
        "c.num_items: the tasks have 5 items, pinned are 6",
        "d.items_hash: the 8 items have hash ",
        ", pinned is 0",
        "e: groups: no task more_toys",
        "f.tasks: broken: ",
    ):
        assert part in message


def test_pins_that_fit_are_accepted_in_any_order_of_tasks(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    found = fetch_suite(suite, layout=toy.layout).benchmarks["colours"]
    assert found.num_items == 8
    pins = {"tasks": ["more_toys", "toys"], "num_items": 8, "items_hash": found.items_hash}
    benchmark = suite.suite.benchmarks["colours"].model_copy(update=pins)
    fetch_suite(make_harness_suite(tmp_path, benchmarks={"colours": benchmark}), layout=toy.layout)


def test_tasks_are_the_same_wherever_the_checkout_lies(tmp_path):
    found = []
    for folder in (tmp_path / "here", tmp_path / "elsewhere"):
        folder.mkdir()
        suite = make_harness_suite(folder)
        for task in (folder / "tasks").glob("*.yaml"):
            task.write_text(task.read_text().replace(f"{folder}/", ""))
        found.append(fetch_suite(suite, layout=Layout(folder / "results", folder / "scratch")).benchmarks)
    assert found[0] == found[1]


def test_items_that_change_after_the_fetch_are_not_scored(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    fetch_suite(suite, layout=toy.layout)
    with (tmp_path / "toys.jsonl").open("a") as file:
        file.write(json.dumps({"question": "what is ?", "choices": COLOURS, "answer": 0}) + "\n")
    with pytest.raises(StudyError, match=r"toys has changed since the suite was fetched: 6 items .*suite.json has 5 "):
        score_harness(toy.stage, suite, part="part01", checkpoints=["ckpt01"], layout=toy.layout)


def test_a_missing_input_ends_in_one_line_with_its_remedy(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    own = {"metric": "acc", "uses": suite.suite.benchmarks["colours"].uses}
    metric = make_harness_suite(tmp_path, benchmarks={"b": HarnessBenchmark(tasks=["toys"], **own | {"metric": "bleu"})})
    with pytest.raises(StudyError, match=r"b.metric: toys gives no bleu that is a mean over items; it has acc"):
        score(toy, metric)
    gone = LocalFile(path=str(tmp_path / "gone.jsonl"))
    absent = make_harness_suite(tmp_path, benchmarks={"b": HarnessBenchmark(tasks=["toys"], **own | {"uses": [gone]})})
    with pytest.raises(StudyError, match=r"gone.jsonl: missing; correct its path"):
        score(toy, absent)


def test_gone_or_changed_weights_name_the_forcerun(tmp_path):
    toy, suite = make_toy(tmp_path), make_harness_suite(tmp_path)
    make_model(seed=7).save_pretrained(toy.scratch / "ckpt02")
    with pytest.raises(StudyError, match=r"weights are not those that the record names.*--forcerun .*training.json"):
        score(toy, suite)
    (toy.scratch / "ckpt02" / "config.json").unlink()
    shutil.rmtree(toy.layout.scratch / "scores")
    with pytest.raises(StudyError, match=r"ckpt02: weights are gone; .*snakemake -c all --forcerun .*training.json"):
        score(toy, suite)
    assert not (toy.layout.scratch / "scores").exists()  # no hours were spent on the first checkpoint before


def base_of(toy: Toy) -> Toy:
    place = spec.Place(ckpt="ckpt00", step=0, num_samples=0)
    untouched = {"data": "none", "recipe": "none", "stage": "00-base", "training": None, "checkpoints": [place]}
    return Toy(toy.layout, toy.stage.model_copy(update=untouched))


def test_a_base_stage_scores_the_model_itself(toy, tmp_path):
    rows = score(base_of(toy), make_harness_suite(tmp_path)).scores
    assert {(row.ckpt, row.samples_seen) for row in rows} == {("ckpt00", 0)}


def test_shots_come_from_config_or_else_from_the_task(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    task = tmp_path / "tasks/toys.yaml"
    task.write_text(json.dumps(json.loads(task.read_text()) | {"num_fewshot": 0, "fewshot_split": "test"}))
    own = {"tasks": ["toys"], "metric": "acc", "uses": suite.suite.benchmarks["colours"].uses}
    for shots, expected in ((None, 0), (2, 2)):
        benchmarks = {"toys": HarnessBenchmark(num_fewshot=shots, **own)}
        suite = spec.SuiteSpec(name="shots", suite=suite.suite.model_copy(update={"benchmarks": benchmarks}))
        exam = load_suite(suite.suite, toy.layout, benchmarks=["toys"], offline=True)["toys"]["toys"]
        prompts = []
        harness.take_exam(_Recorder(prompts), benchmarks["toys"], "toys", exam, None)
        assert prompts[0].count("what colour is") == expected + 1
        assert exam.entry.num_fewshot == expected
        assert exam.entry.fixed_shots == (expected == 0)


def test_one_process_scores(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    exam = load_suite(suite.suite, toy.layout, benchmarks=["colours"], offline=True)["colours"]["toys"]
    lm = _Recorder([])
    lm.world_size = 2
    with pytest.raises(StudyError, match=r"started as 2 processes; start it as one"):
        harness.take_exam(lm, suite.suite.benchmarks["colours"], "toys", exam, None)


class _Recorder:
    """A model that answers nothing and notes the prompts."""

    rank, world_size = 0, 1

    def __init__(self, prompts: list[str]) -> None:
        self.prompts, self.first_tokens, self.chats = prompts, {}, {}

    def loglikelihood(self, requests):
        self.prompts += [request.args[0] for request in requests]
        return [(0.0, False) for _ in requests]


@pytest.mark.parametrize(
    ("bos", "template", "benchmark", "fault"),
    [
        ("<s>", TEMPLATE, "colours", None),
        ("<s>", "<s> " + TEMPLATE, "say", None),
        ("<s> <s>", TEMPLATE, "colours", "starts with two <s>"),
        ("<s>", "<s> <s> " + TEMPLATE, "say", "starts with two <s>"),
    ],
)
def test_prompts_start_with_one_bos(tmp_path, bos, template, benchmark, fault):
    toy, suite = make_toy(tmp_path, bos=bos, template=template), make_harness_suite(tmp_path)
    suite = make_harness_suite(tmp_path, benchmarks={benchmark: suite.suite.benchmarks[benchmark]})
    if fault is None:
        assert score(toy, suite).scores
    else:
        with pytest.raises(StudyError, match=fault):
            score(toy, suite)


def test_prompts_longer_than_the_context_are_counted(toy, tmp_path, capsys):
    suite = make_harness_suite(tmp_path)
    path = tmp_path / "say.jsonl"
    path.write_text("".join(json.dumps({"question": "say " * length, "answer": "red"}) + "\n" for length in (5, 55, 80)))
    score(toy, suite, ["ckpt01"])  # context 64, of which 4 are for the answer, and a chat adds 3
    assert "ckpt01, say, say: 1 prompts were longer than the context" in capsys.readouterr().err


def own_task(folder: Path, text: str, rows: list[dict]) -> str:
    """An own task over JSON rows, with what `text` adds in YAML."""
    make_harness_suite(folder)
    write_jsonl(folder / "own.jsonl", rows)
    (folder / "tasks/own.yaml").write_text(
        f"""
task: own
dataset_path: json
test_split: test
dataset_kwargs: {{data_files: {{test: {folder}/own.jsonl}}}}
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<|end|>"], do_sample: false, max_gen_toks: 4}}
metadata: {{version: 1.0}}
{text}
"""
    )
    return "own"


def own_suite(folder: Path, text: str, rows: list[dict], **keys) -> spec.SuiteSpec:
    uses = [LocalFile(path=str(folder / "own.jsonl"))]
    tasks = [own_task(folder, text, rows)]
    return make_harness_suite(folder, edit=False, benchmarks={"own": HarnessBenchmark(tasks=tasks, uses=uses, **keys)})


REGEX = """
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
- {name: colour, filter: [{function: regex, regex_pattern: "(red|green|blue|pink)"}, {function: take_first}]}
- {name: never, filter: [{function: regex, regex_pattern: "(nothing)", fallback: "?"}, {function: take_first}]}
"""


def test_replies_without_an_answer_are_counted_and_bounded(toy, tmp_path):
    rows = [{"question": f"say {word} {other}", "answer": word} for word in COLOURS for other in ("again", "hat", "car")]
    suite = own_suite(tmp_path, REGEX, rows, metric="exact_match", filter="colour")
    whole = score(toy, suite, ["ckpt01"]).scores[0]
    items = item_rows(toy, suite)
    failed = [row for row in items if row["prediction"] == "[invalid]"]
    assert 0 < len(failed) < len(items) == whole.num_items == 12
    assert {row["value"] for row in failed} == {0.0}
    assert whole.failure_share == len(failed) / 12
    assert (whole.value, whole.lowest) == (pytest.approx(sum(row["value"] for row in items) / 12),) * 2
    assert whole.highest == pytest.approx(whole.value + whole.failure_share)
    never = score(toy, own_suite(tmp_path, REGEX, rows, metric="exact_match", filter="never"), ["ckpt01"]).scores[0]
    assert (never.value, never.failure_share, never.lowest, never.highest) == (0, 1, 0, 1)
    asked = score(toy, make_harness_suite(tmp_path), ["ckpt01"]).scores[0]
    assert (asked.failure_share, asked.lowest, asked.highest) == (0, None, None)


PARTS = """
process_results: !function own_metrics.parts
metric_list:
- {metric: all_parts, aggregation: mean, higher_is_better: true}
- {metric: each_part, aggregation: !function own_metrics.pooled, higher_is_better: true}
- {metric: largest, aggregation: !function own_metrics.largest, higher_is_better: true}
"""

PARTS_CODE = """
def parts(doc, results):
    return {"all_parts": all(doc["parts"]), "each_part": doc["parts"], "largest": float(len(doc["parts"]))}

def pooled(items):
    return sum(map(sum, items)) / sum(map(len, items))

def largest(items):
    return max(items)
"""


def test_a_metric_over_parts_of_items_weighs_them_and_others_are_refused(toy, tmp_path):
    make_harness_suite(tmp_path)
    (tmp_path / "tasks/own_metrics.py").write_text(PARTS_CODE)
    rows = [{"question": "say red", "answer": "red", "parts": parts} for parts in ([True], [True, False], [False] * 3)]
    suite = own_suite(tmp_path, PARTS, rows, metric="all_parts", metrics=["each_part"])
    found = {(row.task, row.metric): row.value for row in score(toy, suite, ["ckpt01"]).scores}
    assert found == {("own", "all_parts"): pytest.approx(1 / 3), ("own", "each_part"): pytest.approx(2 / 6)}
    assert [(row["value"], row["weight"]) for row in item_rows(toy, suite) if row["metric"] == "each_part"] == [
        (1.0, 1.0),
        (0.5, 2.0),
        (0.0, 3.0),
    ]
    with pytest.raises(
        StudyError, match=r"own.metrics: own gives no largest that is a mean over items; it has all_parts, each_part"
    ):
        score(toy, own_suite(tmp_path, PARTS, rows, metric="all_parts", metrics=["largest"]), ["ckpt01"])
    with pytest.raises(StudyError, match=r"own.metric: each_part is a mean over parts of items; tables can't pair it"):
        score(toy, own_suite(tmp_path, PARTS, rows, metric="each_part"), ["ckpt01"])


def test_items_hold_prediction_and_log_likelihoods(toy, tmp_path):
    suite = make_harness_suite(tmp_path)
    score(toy, suite, ["ckpt01"])
    rows = [row for row in item_rows(toy, suite) if row["task"] == "toys"]
    for number, row in enumerate(rows):
        by_hand = option_log_probs(make_model(seed=1), make_tokenizer(), row_question(tmp_path, "toys", number))
        assert row["log_likelihoods"] == pytest.approx(by_hand, abs=1e-4)
        assert row["prediction"] == COLOURS[by_hand.index(max(by_hand))]
        assert row["value"] == float(row["prediction"] == COLOURS[number % 4])
    assert len(rows) == 5
    said = [row["prediction"] for row in item_rows(toy, suite) if row["task"] == "say"]
    assert all(isinstance(text, str) for text in said)
    assert len(said) == 4


def row_question(folder: Path, task: str, number: int) -> str:
    return json.loads((folder / f"{task}.jsonl").read_text().splitlines()[number])["question"]


def test_bf16_logits_do_not_tie(toy):
    model = weights.load_model(toy.scratch / "ckpt01", precision="bf16")
    tokenizer = make_tokenizer()
    logits = model(**tokenizer("what colour is ball ?", return_tensors="pt", return_token_type_ids=False)).logits
    assert str(logits.dtype) == "torch.float32"
    assert len(set(logits[0, -1].tolist())) == logits.shape[-1]


def make_mirror(folder: Path, num_items: int) -> Path:
    """A folder as a `--local-dir` snapshot leaves it: one config of one data set, a README that lists it, and a Parquet file."""
    parquet = folder / "cais/mmlu/abstract_algebra/test-00000-of-00001.parquet"
    parquet.parent.mkdir(parents=True)
    files = "[{split: test, path: abstract_algebra/test-*}]"
    (folder / "cais/mmlu/README.md").write_text(f"---\nconfigs:\n- {{config_name: abstract_algebra, data_files: {files}}}\n---\n")
    rows = [{"question": f"number {item}", "choices": list(COLOURS), "answer": item % 4} for item in range(num_items)]
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    return folder


def test_a_stock_task_runs_from_a_folder_mirror(toy, tmp_path):
    task = tmp_path / "tasks/mirrored.yaml"
    make_harness_suite(tmp_path)
    task.write_text(
        json.dumps(
            {
                "task": "mirrored",
                "dataset_path": "cais/mmlu",
                "dataset_name": "abstract_algebra",
                "test_split": "test",
                "output_type": "multiple_choice",
                "doc_to_text": "what is",
                "doc_to_choice": COLOURS,
                "doc_to_target": "answer",
                "metric_list": [{"metric": "acc"}],
            }
        )
    )
    uses = [HubSplit(hub="cais/mmlu", split="test", config="abstract_algebra")]
    benchmark = HarnessBenchmark(tasks=["mirrored"], metric="acc", uses=uses)
    suite = make_harness_suite(
        tmp_path, benchmarks={"algebra": benchmark}, mirror=str(make_mirror(tmp_path / "mirror", num_items=12))
    )
    before = os.getcwd()
    whole = score(toy, suite, ["ckpt01"]).scores[0]
    assert (whole.num_items, os.getcwd()) == (12, before)


def test_what_a_mirror_lacks_is_named_with_the_way_to_get_it(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_harness_suite(tmp_path)
    make_mirror(tmp_path / "mirror", num_items=2)
    task = json.loads((tmp_path / "tasks/toys.yaml").read_text()) | {"task": "gated", "dataset_path": "Idavidrein/gpqa"}
    del task["dataset_kwargs"]
    (tmp_path / "tasks/gated.yaml").write_text(json.dumps(task))
    benchmark = HarnessBenchmark(tasks=["gated"], metric="acc", uses=[HubSplit(hub="Idavidrein/gpqa", split="train")])
    suite = make_harness_suite(tmp_path, edit=False, benchmarks={"gpqa": benchmark}, mirror="mirror")
    with pytest.raises(StudyError) as error:
        fetch_suite(suite, layout=toy.layout)
    folder = tmp_path / "mirror"
    assert f"gated: the mirror {folder} has no folder Idavidrein/gpqa; ask for access at https://" in str(error.value)
    assert f"`hf download --repo-type dataset Idavidrein/gpqa --local-dir {folder}/Idavidrein/gpqa`" in str(error.value)
