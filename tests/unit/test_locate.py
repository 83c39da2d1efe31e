import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sftstudy import spec
from sftstudy.config import HubSplit, LocalFile, PackageFile, World, WorldFile
from sftstudy.errors import StudyError
from sftstudy.locate import check_worlds, locate
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
    exam = locate(WorldFile(world="tiny", file="exam.jsonl"), layout, registry="data.yaml")
    assert exam == layout.world_folder("tiny") / "exam.jsonl"
    assert locate(PackageFile(package="sftstudy", file="errors.py"), layout, registry="data.yaml").name == "errors.py"
    (tmp_path / "own.jsonl").touch()
    assert locate(LocalFile(path=str(tmp_path / "own.jsonl")), layout, registry="data.yaml") == tmp_path / "own.jsonl"


def test_an_edited_or_missing_file_of_a_world_names_the_forcerun(layout):
    with pytest.raises(StudyError, match=r"world tiny: has no file other.jsonl; correct its name in data.yaml \(it has exam"):
        locate(WorldFile(world="tiny", file="other.jsonl"), layout, registry="data.yaml")
    (layout.world_folder("tiny") / "exam.jsonl").write_text("{1}\n")
    with pytest.raises(StudyError, match=r"exam.jsonl: not the file that the world's record names; make it again with `snakemake"):
        locate(WorldFile(world="tiny", file="exam.jsonl"), layout, registry="data.yaml")
    (layout.world_folder("tiny") / "exam.jsonl").unlink()
    with pytest.raises(StudyError, match=r"exam.jsonl: missing; make it again with `snakemake -c1 --forcerun .*world.json`"):
        locate(WorldFile(world="tiny", file="exam.jsonl"), layout, registry="data.yaml")


def test_a_package_that_is_not_installed_is_named(layout):
    with pytest.raises(StudyError, match="package no_such_package: not installed"):
        locate(PackageFile(package="no_such_package", file="a.jsonl"), layout, registry="data.yaml")


@pytest.mark.parametrize(
    ("hub", "asked"), [("me/set", ("me/set", "dataset")), ("spaces/lmsys/mt-bench", ("lmsys/mt-bench", "space"))]
)
def test_files_of_a_data_set_or_a_space_come_from_the_hub(layout, tmp_path, monkeypatch, hub, asked):
    def download(name: str, file: str, *, repo_type: str, revision: str) -> str:
        assert (name, repo_type, file, revision) == (*asked, "data/question.jsonl", "abc")
        (tmp_path / "question.jsonl").touch()
        return str(tmp_path / "question.jsonl")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    place = HubSplit(hub=hub, split="data/question.jsonl", revision="abc")
    assert locate(place, layout, registry="benchmarks.yaml") == tmp_path / "question.jsonl"


def test_a_missing_file_names_the_registry_to_correct(layout, tmp_path):
    with pytest.raises(StudyError, match=r"gone.jsonl: missing; correct its path in benchmarks.yaml"):
        locate(LocalFile(path=str(tmp_path / "gone.jsonl")), layout, registry="benchmarks.yaml")
    with pytest.raises(StudyError, match=r"gone.py: missing; install the version of sftstudy.data that ships it"):
        locate(PackageFile(package="sftstudy.data", file="gone.py"), layout, registry="benchmarks.yaml")


def test_a_package_is_found_without_importing_its_parent():
    code = (
        "import sys; from sftstudy.locate import package_folder; print(package_folder('lm_eval.tasks'), 'lm_eval' in sys.modules)"
    )
    folder, loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert folder.endswith("lm_eval/tasks")
    assert loaded == "False"


def test_a_world_of_another_spec_is_refused(layout):
    check_worlds({"tiny": spec.spec_hash(spec.WorldSpec(name="tiny", world=World(seed=1, sizes={})))}, layout)
    with pytest.raises(StudyError, match=r"world.json: made from another spec"):
        check_worlds({"tiny": "other"}, layout)
