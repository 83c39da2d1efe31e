"""lm-eval's tasks by name. Finding its own 14,000 means parsing as many files, so that is done once per version and kept."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sftstudy.paths import Layout
from sftstudy.records import write_text


def make_task_manager(*, include_path: Path | None, stock_tasks: bool, layout: Layout) -> Any:
    """lm-eval's task manager with a user's own tasks and, if wanted, lm-eval's; a user's take precedence."""
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=include_path and include_path.absolute())
    if stock_tasks:
        own = dict(manager.task_index)
        manager.task_index.update(indexed(Path(lm_eval.tasks.__file__).parent, layout.task_index(version("lm-eval"))) | own)
    return manager


def indexed(folder: Path, file: Path) -> dict[str, Any]:
    """Name -> lm-eval's index entry of the tasks, groups and tags in a folder, read from `file`, which is made first if need be."""
    from lm_eval.tasks._index import Entry, Kind, TaskIndex

    if not file.is_file():
        entries = TaskIndex.build([folder]).values()
        rows = [
            [entry.name, entry.kind.name, entry.yaml_path and str(entry.yaml_path.relative_to(folder)), sorted(entry.tags)]
            for entry in entries
        ]
        write_text(file, json.dumps(rows))
    return {
        name: Entry(name=name, kind=Kind[kind], yaml_path=path and folder / path, tags=set(tags))
        for name, kind, path, tags in json.loads(file.read_text())
    }
