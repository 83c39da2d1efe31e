"""A random two-layer Llama with a word tokenizer, filed as a trained stage of two checkpoints, and small suites to score it on."""

import json
from dataclasses import dataclass
from pathlib import Path

from sftstudy import hashes, spec
from sftstudy.config import HarnessBenchmark, HarnessSuite, Judge, LocalFile, MtBenchSuite, ScratchModel, Training
from sftstudy.paths import Layout
from sftstudy.records import CheckpointEntry, ModelRecord, TrainingRecord, provenance, write_record

COLOURS = ["red", "green", "blue", "pink"]
WORDS = [*COLOURS, "what", "colour", "is", "the", "?", "ball", "hat", "car", "say", "again", "and", "a"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RULE = Judge(model="lcs-rule", server="rule")
PROMPTS = Path(__file__).parents[2] / "config/tiny/judge_prompts.jsonl"


@dataclass(frozen=True)
class Toy:
    """A stage whose weights, records and specs lie under `layout`."""

    layout: Layout
    stage: spec.StageSpec

    @property
    def checkpoints(self) -> list[str]:
        return [place.ckpt for place in self.stage.checkpoints]

    @property
    def results(self) -> Path:
        stage = self.stage
        return self.layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)

    @property
    def scratch(self) -> Path:
        stage = self.stage
        return self.layout.stage_scratch(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)


def make_tokenizer(*, bos: str = "", template: str = TEMPLATE):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        bos_token="<s>" if bos else None,
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(*, seed: int):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    config = LlamaConfig(
        vocab_size=6 + len(WORDS), initializer_range=0.5, eos_token_id=4, pad_token_id=0, bos_token_id=None, **sizes
    )
    return LlamaForCausalLM(config).eval()


def make_toy(folder: Path, *, bos: str = "", template: str = TEMPLATE, seeds: tuple[int, int] = (1, 2)) -> Toy:
    """Two checkpoints of a random model, with the records that training would have written."""
    layout = Layout(folder / "results", folder / "scratch")
    base = layout.model_folder("tiny")
    make_model(seed=0).save_pretrained(base)
    make_tokenizer(bos=bos, template=template).save_pretrained(base)
    model = ScratchModel(
        source="scratch",
        world="tiny",
        seed=0,
        architecture={},
        pretraining=[{"file": "corpus.jsonl", "num_steps": 1, "tokens_per_step": 1, "learning_rate": 1.0}],
    )
    model_hash = spec.spec_hash(spec.ModelSpec(name="tiny", model=model))
    made_by = provenance()
    record = ModelRecord(
        spec_hash=model_hash,
        content_hash="none",
        num_parameters=1,
        weights_hash=hashes.weights_hash(base),
        tokenizer_hash=hashes.tokenizer_hash(base),
        chat_template="tokenizer",
        **made_by,
    )
    write_record(layout.model_record("tiny"), record)
    stage = spec.StageSpec(
        model="tiny",
        data="toys",
        recipe="stacked",
        seed=0,
        stage="01-stacked",
        model_hash=model_hash,
        training=Training(effective_batch_size=4, learning_rate=1e-3, epochs=1, num_checkpoints=2),
        num_steps=2,
        checkpoints=[spec.Place(ckpt=f"ckpt0{i}", step=i, num_samples=4 * i) for i in (1, 2)],
    )
    toy = Toy(layout, stage)
    entries = []
    for seed, place in zip(seeds, stage.checkpoints, strict=True):
        make_model(seed=seed).save_pretrained(toy.scratch / place.ckpt)
        entries.append(
            CheckpointEntry(
                ckpt=place.ckpt,
                step=place.step,
                samples_seen=place.num_samples,
                samples_spent=place.num_samples,
                supervised_tokens_seen=0,
                weights_hash=hashes.weights_hash(toy.scratch / place.ckpt),
            )
        )
    training = TrainingRecord(
        spec_hash=spec.spec_hash(stage),
        content_hash="none",
        num_steps=2,
        samples_seen=8,
        samples_spent=8,
        checkpoints=entries,
        loss_normalisation="tokens",
        packed=False,
        sharding="none",
        optimizer="adamw",
        tokens_per_s=1.0,
        precision="fp32",
        attention="sdpa",
        device="cpu",
        num_processes=1,
        num_threads=1,
        num_attempts=1,
        time_s=0.0,
        peak_memory_gb=0.0,
        **made_by,
    )
    write_record(toy.results / "training.json", training)
    return toy


def make_harness_suite(folder: Path, *, edit: bool = True, **settings) -> spec.SuiteSpec:
    """Two multiple-choice tasks of unequal size and one that generates; `edit` writes their lm-eval task files and JSON files."""
    if edit:
        _write_tasks(folder)
    uses = {name: LocalFile(path=str(folder / f"{name}.jsonl")) for name in ("toys", "more_toys", "say")}
    benchmarks = {
        "colours": HarnessBenchmark(tasks=["toys", "more_toys"], metric="acc", uses=[uses["toys"], uses["more_toys"]]),
        "say": HarnessBenchmark(tasks=["say"], metric="exact_match", chat_template=True, uses=[uses["say"]]),
    }
    settings = {"benchmarks": benchmarks, "include_path": str(folder / "tasks"), "stock_tasks": False, "batch_size": 4} | settings
    return spec.SuiteSpec(name="toy-suite", suite=HarnessSuite(kind="harness", **settings))


def _write_tasks(folder: Path) -> None:
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    for name, things in {
        "toys": ["ball", "hat", "car", "ball hat", "car hat"],
        "more_toys": ["hat ball", "a car", "the hat"],
    }.items():
        rows = [{"question": f"what colour is {thing} ?", "choices": COLOURS, "answer": i % 4} for i, thing in enumerate(things)]
        write_jsonl(folder / f"{name}.jsonl", rows)
        task = {
            "task": name,
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        write_task(folder, task)
    write_jsonl(folder / "say.jsonl", [{"question": f"say {word}", "answer": word} for word in WORDS[:4]])
    task = {
        "task": "say",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["<|end|>"], "do_sample": False, "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    write_task(folder, task)


def write_task(folder: Path, task: dict) -> None:
    """Write `tasks/NAME.yaml` for lm-eval, whose items are those of `NAME.jsonl`; `task` has its name and what else it says."""
    source = {
        "dataset_path": "json",
        "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{task['task']}.jsonl")}},
    }
    (folder / "tasks" / f"{task['task']}.yaml").write_text(json.dumps(source | {"metadata": {"version": 1.0}} | task))


def make_mt_suite(folder: Path, *, judge: Judge | None = None, references: bool = True, **settings) -> spec.SuiteSpec:
    """Four questions of two turns, with references."""
    categories = ["writing", "math", "stem", "writing"]
    questions = [
        {"question_id": 81 + i, "category": category, "turns": [f"say {WORDS[i]}", "say again"]}
        for i, category in enumerate(categories)
    ]
    write_jsonl(folder / "questions.jsonl", questions)
    answers = [
        {
            "question_id": 81 + i,
            "answer_id": f"r{i}",
            "model_id": "reference",
            "choices": [{"index": 0, "turns": [WORDS[i], WORDS[i]]}],
            "tstamp": 0.0,
        }
        for i in range(4)
    ]
    write_jsonl(folder / "references.jsonl", answers)
    suite = MtBenchSuite(
        kind="mt-bench",
        questions=LocalFile(path=str(folder / "questions.jsonl")),
        references=LocalFile(path=str(folder / "references.jsonl")) if references else None,
        **({"max_new_tokens": 6, "prompts": LocalFile(path=str(PROMPTS)), "judges": [judge or RULE]} | settings),
    )
    return spec.SuiteSpec(name="toy-mt", suite=suite)


def write_pair_prompts(path: Path) -> LocalFile:
    """Prompts by which a judge compares answers, in FastChat's format."""
    both = "first: {answer_a_1} / {answer_a_2} second: {answer_b_1} / {answer_b_2}"
    texts = {"pair-v2": "first: {answer_a} second: {answer_b}", "pair-v2-multi-turn": both}
    texts |= {
        "pair-math-v1": "{ref_answer_1} first: {answer_a} second: {answer_b}",
        "pair-math-v1-multi-turn": "{ref_answer_2} " + both,
    }
    rest = {"type": "pairwise", "system_prompt": "Which is better?", "output_format": "[[A]]"}
    write_jsonl(path, [{"name": name, "prompt_template": text} | rest for name, text in texts.items()])
    return LocalFile(path=str(path))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
