"""Tasks are found as by lm-eval, but parsed only once."""

from pathlib import Path

import pytest
from evaluation_toys import make_harness_suite

from sftstudy.evaluate.task_index import indexed, make_task_manager
from sftstudy.paths import Layout


def test_an_index_is_kept_and_equals_lm_evals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import TaskIndex

    make_harness_suite(tmp_path)
    tasks, kept = tmp_path / "tasks", tmp_path / "index.json"
    (tasks / "deep").mkdir()
    (tasks / "deep" / "both.yaml").write_text("group: both\ntask: [toys, more_toys]\n")
    (tasks / "deep" / "tagged.yaml").write_text("include: ../toys.yaml\ntask: tagged\ntag: [short, easy]\n")
    theirs = TaskManager(include_defaults=False, include_path=str(tasks))
    expected = {name: (entry.kind, entry.yaml_path, entry.tags) for name, entry in theirs.task_index.items()}
    assert sorted(expected) == ["both", "easy", "more_toys", "say", "short", "tagged", "toys"]
    for _ in range(2):
        found = indexed(tasks, kept)
        assert {name: (entry.kind, entry.yaml_path, entry.tags) for name, entry in found.items()} == expected
        monkeypatch.setattr(TaskIndex, "build", lambda _: pytest.fail("parsed again"))
    theirs.task_index.clear()
    theirs.task_index.update(found)
    loaded = theirs.load(["both", "easy"])["tasks"]
    assert sorted(loaded) == ["more_toys", "tagged", "toys"]


def test_own_tasks_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    for folder in ("stock", "own"):
        (tmp_path / folder).mkdir()
        make_harness_suite(tmp_path / folder)
    (tmp_path / "own" / "tasks" / "say.yaml").unlink()
    monkeypatch.setattr(lm_eval.tasks, "__file__", str(tmp_path / "stock" / "tasks" / "__init__.py"))
    manager = make_task_manager(
        include_path=tmp_path / "own" / "tasks", stock_tasks=True, layout=Layout(tmp_path / "results", tmp_path / "scratch")
    )
    folders = {name: entry.yaml_path.parent.parent.name for name, entry in manager.task_index.items()}
    assert folders == {"toys": "own", "more_toys": "own", "say": "stock"}
