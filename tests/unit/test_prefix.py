"""Shared prefixes are computed once, and answers stay those of lm-eval's own back end."""

import ast
import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
from evaluation_toys import TEMPLATE, WORDS, Toy, make_harness_suite, make_tokenizer, make_toy

from sftstudy import spec
from sftstudy.config import CrossCheck, HarnessBenchmark
from sftstudy.errors import StudyError
from sftstudy.evaluate.fetch import fetch_suite
from sftstudy.evaluate.harness import score_harness
from sftstudy.evaluate.packs import grow_tree, num_shared, plan_packs
from sftstudy.evaluate.prefix import TESTED_FAMILIES
from sftstudy.records import Score

SIZES = {
    "vocab_size": 6 + len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}


def make_family(name: str, **settings: Any) -> Any:
    """A random model of one family, with grouped heads, and windows shorter than the prompts where it has windows."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own = {
        "llama": {"num_key_value_heads": 2},
        "mistral": {"num_key_value_heads": 2, "sliding_window": 6},
        "granite": {"num_key_value_heads": 2, "logits_scaling": 2.0, "residual_multiplier": 0.7, "embedding_multiplier": 1.3},
        "qwen2": {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
        "gpt_neox": {},
    }[name]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **SIZES | own | settings)).eval()


def make_requests(options: list[str]) -> list[Any]:
    """Three subjects of questions with one-token and longer options, one prompt above the context, one without context."""
    from lm_eval.api.instance import Instance

    rng = random.Random(0)

    def words(number: int) -> str:
        return " ".join(rng.choices(WORDS, k=number))

    pairs = []
    for _ in range(3):
        shots = words(25)
        for _ in range(6):
            question = f"{shots} {words(rng.randint(1, 8))}"
            pairs += [(question, " " + words(rng.choice([1, 1, 3]))) for _ in range(4)]
    pairs += [(pairs[i][0], f" {word}") for i in (0, 24, 48) for word in options]
    pairs += [(pairs[0][0] + " ", "red"), (words(70), " " + words(2)), ("", words(2))]
    rng.shuffle(pairs)
    return [Instance("loglikelihood", {}, pair, 0) for pair in pairs]


@pytest.mark.parametrize("bos", ["", "<s>"])
@pytest.mark.parametrize("family", sorted(TESTED_FAMILIES))
def test_answers_equal_those_of_the_stock_back_end(family: str, bos: str) -> None:
    from sftstudy.evaluate.lm import CheckedLM, CheckedPrefixLM

    tokenizer = make_tokenizer(bos=bos)
    requests = make_requests(sorted(tokenizer.get_vocab()))
    for attention in ("sdpa", "eager"):
        model = make_family(family, attn_implementation=attention)
        stock = CheckedLM(model, tokenizer=tokenizer, batch_size=3)
        expected = stock.loglikelihood(requests, disable_tqdm=True)
        assert {greedy for _, greedy in expected} == {True, False}
        for batch_size in (1, 2, 50):  # packs smaller than a stem, of a few prompts, and of all
            ours = CheckedPrefixLM(model, tokenizer=tokenizer, batch_size=batch_size)
            answers = ours.loglikelihood(requests, disable_tqdm=True)
            assert [greedy for _, greedy in answers] == [greedy for _, greedy in expected]
            assert [value for value, _ in answers] == pytest.approx([value for value, _ in expected], abs=1e-4)
            assert (ours.num_truncated, ours.first_tokens) == (stock.num_truncated, stock.first_tokens)
    assert stock.num_truncated == 1


def test_shared_tokens_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.evaluate.lm import CheckedPrefixLM

    model, requests, computed = make_family("llama"), make_requests(WORDS), []
    ours, forward = CheckedPrefixLM(model, tokenizer=make_tokenizer(), batch_size=2), model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: computed.append(inputs) or forward(**inputs))
    requests = [request for request in requests if 20 < len(request.args[0].split()) < 60]
    ours.loglikelihood(requests, disable_tqdm=True)
    tokens = [inputs["input_ids"].numel() for inputs in computed]
    prompts = sum(len(question.split()) for question in {request.args[0] for request in requests})
    assert sum(tokens) < 0.5 * prompts
    assert max(tokens) <= 2 * 16  # a stem of 25 tokens, or a pack


def test_other_families_go_the_stock_way(capsys: pytest.CaptureFixture[str]) -> None:
    from sftstudy.evaluate.lm import CheckedLM, CheckedPrefixLM

    model = make_family("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    requests = make_requests(WORDS)
    expected = CheckedLM(model, tokenizer=make_tokenizer(), batch_size=3).loglikelihood(requests, disable_tqdm=True)
    ours = CheckedPrefixLM(model, tokenizer=make_tokenizer(), batch_size=3)
    assert ours.loglikelihood(requests, disable_tqdm=True) == expected
    assert "llama models are scored as by hf, prompt by prompt" in capsys.readouterr().err


def test_plans_hold_every_row_once_within_the_budget() -> None:
    rng, num_plans = random.Random(1), 0
    for num_tokens in (1, 20, 64, 500):
        for alphabet in (2, 50):
            heads = [tuple(rng.choices(range(alphabet), k=rng.randint(0, 60))) for _ in range(4)]
            rows = sorted({head + tuple(rng.choices(range(alphabet), k=rng.randint(1, 30))) for head in heads for _ in range(20)})
            wanted_from = [rng.randint(0, len(row) - 1) for row in rows]
            packs = plan_packs(rows, wanted_from, num_tokens=num_tokens)
            assert sorted(number for pack in packs for number in pack.rows) == list(range(len(rows)))
            for pack in packs:
                tree = grow_tree([rows[i] for i in pack.rows], pack.stem)
                assert len(tree.tokens) <= num_tokens or len(pack.rows) == 1
                assert all(pack.stem <= wanted_from[i] for i in pack.rows)
                assert min(num_shared(rows[pack.rows[0]], rows[i]) for i in pack.rows) >= pack.stem
                for path, i in zip(tree.paths, pack.rows, strict=True):
                    assert tuple(tree.tokens[place] for place in path) == rows[i][pack.stem :]
                    assert [tree.parents[place] for place in path] == [-1, *path[:-1]]
            num_plans += 1
    assert num_plans == 8


def with_backend(suite: spec.SuiteSpec, **settings: Any) -> spec.SuiteSpec:
    benchmarks = {name: benchmark.model_copy(update=settings) for name, benchmark in suite.suite.benchmarks.items()}
    return suite.model_copy(update={"suite": suite.suite.model_copy(update={"benchmarks": benchmarks})})


def score(toy: Toy, suite: spec.SuiteSpec) -> list[Score]:
    fetch_suite(suite, layout=toy.layout)
    return score_harness(toy.stage, suite, part="part01", checkpoints=["ckpt01"], layout=toy.layout).scores


def test_back_ends_agree_on_a_suite_and_share_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sftstudy.evaluate.lm import CheckedPrefixLM

    toy, suite = make_toy(tmp_path, bos="<s>", template=TEMPLATE), make_harness_suite(tmp_path)
    for path in (tmp_path / "tasks").glob("*.yaml"):  # shots are drawn anew for every item
        path.write_text(path.read_text().replace('"test_split"', '"fewshot_split": "test", "test_split"'))
    suite = with_backend(suite, num_fewshot=2, chat_template=True)
    stock = score(toy, suite)
    num_filed = len(list(toy.layout.scratch.glob("scores/**/*.json")))
    checked = with_backend(suite, backend="hf-prefix", cross_check=CrossCheck(num_items=4, max_disagreement=0.0))
    with pytest.MonkeyPatch.context() as patch:
        answered, share = [], CheckedPrefixLM._share
        patch.setattr(CheckedPrefixLM, "_share", lambda lm, asked, **told: answered.append(len(asked)) or share(lm, asked, **told))
        ours = score(toy, checked)
    assert answered == [5 * 4, 3 * 4]
    assert [(row.task, row.value, row.first_tokens) for row in ours] == [(row.task, row.value, row.first_tokens) for row in stock]
    assert not {row.protocol_hash for row in ours} & {row.protocol_hash for row in stock}
    assert "ckpt01, colours: hf-prefix and hf differ on 0 of 4 items" in capsys.readouterr().err
    assert len(list(toy.layout.scratch.glob("scores/**/*.json"))) == 2 * num_filed + 2


def test_back_ends_that_disagree_stop_the_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.evaluate.prefix import PrefixLM

    toy, suite = make_toy(tmp_path), make_harness_suite(tmp_path)
    right = PrefixLM._share
    monkeypatch.setattr(PrefixLM, "_share", lambda *args, **kwargs: [(-value, greedy) for value, greedy in right(*args, **kwargs)])
    wrong = with_backend(suite, backend="hf-prefix", cross_check=CrossCheck(num_items=8))
    for _ in range(2):  # the second time from what was found before
        with pytest.raises(StudyError, match=r"colours.cross_check: hf-prefix and hf differ on [2-8] of 8 items, more than 5%"):
            score(toy, wrong)
    assert not list(toy.results.glob("scores/**/part01.json"))


def test_a_cross_check_needs_something_to_compare() -> None:
    with pytest.raises(ValueError, match="remove it, or set backend"):
        HarnessBenchmark(tasks=["a"], metric="acc", uses=[{"path": "a.jsonl"}], cross_check=CrossCheck())


def test_vllm_without_its_package_or_a_gpu_ends_in_one_line(tmp_path: Path) -> None:
    toy, suite = make_toy(tmp_path), with_backend(make_harness_suite(tmp_path), backend="vllm")
    with pytest.raises(StudyError, match=r"^backend vllm: .*(envs/vllm.yaml|no GPU).*set backend: hf-prefix"):
        score(toy, suite)


def test_the_vllm_adapter_fits_lm_evals() -> None:
    """vLLM cannot be imported here, so lm-eval's adapter is read: it has what ours passes, overrides and calls."""
    path = Path(importlib.util.find_spec("lm_eval").origin).parent / "models" / "vllm_causallms.py"
    tree = ast.parse(path.read_text())
    theirs = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "VLLM")
    methods = {node.name: [arg.arg for arg in node.args.args] for node in theirs.body if isinstance(node, ast.FunctionDef)}
    assert {"pretrained", "tokenizer", "dtype", "batch_size"} <= set(methods["__init__"])
    assert methods["generate_until"] == ["self", "requests", "disable_tqdm"]
    assert methods["_loglikelihood_tokens"][:2] == ["self", "requests"]
    assert methods["modify_gen_kwargs"] == ["gen_kwargs", "eos", "default_max_gen_toks"]
    assert {"apply_chat_template", "max_length", "max_gen_toks", "tok_encode"} <= methods.keys()


def test_vllm_agrees_with_hf_on_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    toy, suite = make_toy(tmp_path, bos="<s>", template=TEMPLATE), make_harness_suite(tmp_path)
    stock = score(toy, suite)
    ours = score(toy, with_backend(suite, backend="vllm", cross_check=CrossCheck(num_items=8, max_disagreement=0.25)))
    assert [(row.task, row.first_tokens) for row in ours] == [(row.task, row.first_tokens) for row in stock]
