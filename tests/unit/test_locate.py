import hashlib
from pathlib import Path

import pytest

from sftstudy import spec
from sftstudy.config import HarnessBenchmark, HarnessSuite, LocalFile, PackageFile, World, WorldFile
from sftstudy.errors import StudyError
from sftstudy.evaluate.locate import check_worlds, locate
from sftstudy.paths import Layout
from sftstudy.records import FileEntry, WorldRecord, provenance, write_record


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A generated world of one file."""
    layout = Layout(tmp_path / "results", tmp_path / "scratch")
    path = layout.world_folder("tiny") / "exam.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    entry = FileEntry(num_rows=1, sha256=hashlib.sha256(b"{}\n").hexdigest())
    world_hash = spec.spec_hash(spec.WorldSpec(name="tiny", world=World(seed=1, sizes={})))
    write_record(
        layout.world_record("tiny"),
        WorldRecord(spec_hash=world_hash, content_hash="c", files={"exam.jsonl": entry}, **provenance()),
    )
    return layout


def test_files_of_a_world_a_package_and_a_folder_are_found(layout, tmp_path):
    assert locate(WorldFile(world="tiny", file="exam.jsonl"), layout) == layout.world_folder("tiny") / "exam.jsonl"
    assert locate(PackageFile(package="sftstudy", file="errors.py"), layout).name == "errors.py"
    (tmp_path / "own.jsonl").touch()
    assert locate(LocalFile(path=str(tmp_path / "own.jsonl")), layout) == tmp_path / "own.jsonl"


def test_an_edited_or_missing_file_of_a_world_names_the_forcerun(layout):
    with pytest.raises(StudyError, match=r"world tiny: has no file other.jsonl; correct its name"):
        locate(WorldFile(world="tiny", file="other.jsonl"), layout)
    (layout.world_folder("tiny") / "exam.jsonl").write_text("{1}\n")
    with pytest.raises(StudyError, match=r"exam.jsonl: not the file that the world's record names; `snakemake"):
        locate(WorldFile(world="tiny", file="exam.jsonl"), layout)
    (layout.world_folder("tiny") / "exam.jsonl").unlink()
    with pytest.raises(StudyError, match=r"exam.jsonl: missing; `snakemake -c1 --forcerun .*world.json`"):
        locate(WorldFile(world="tiny", file="exam.jsonl"), layout)


def test_a_package_that_is_not_installed_is_named(layout):
    with pytest.raises(StudyError, match="package no_such_package: not installed"):
        locate(PackageFile(package="no_such_package", file="a.jsonl"), layout)


def test_a_world_of_another_spec_is_refused(layout):
    benchmark = HarnessBenchmark(tasks=["t"], metric="acc", uses=[WorldFile(world="tiny", file="exam.jsonl")])
    suite = HarnessSuite(kind="harness", benchmarks={"b": benchmark})
    today = spec.spec_hash(spec.WorldSpec(name="tiny", world=World(seed=1, sizes={})))
    check_worlds(spec.SuiteSpec(name="s", suite=suite, world_hashes={"tiny": today}), layout)
    with pytest.raises(StudyError, match=r"world.json: made from another spec"):
        check_worlds(spec.SuiteSpec(name="s", suite=suite, world_hashes={"tiny": "other"}), layout)
