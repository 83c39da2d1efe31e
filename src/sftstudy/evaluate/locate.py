"""Turns a config location into a local file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sftstudy.config import HubSplit, LocalFile, PackageFile, WorldFile
from sftstudy.errors import StudyError
from sftstudy.hashes import sha256_of
from sftstudy.records import WorldRecord, read_record

if TYPE_CHECKING:
    from sftstudy.config import Location
    from sftstudy.paths import Layout
    from sftstudy.spec import SuiteSpec


def locate(location: Location, layout: Layout) -> Path:
    """Path of a file that exists. For the hub, `split` is the file's name in the data set repository, such as `question.jsonl`."""
    sha256: str | None = None
    match location:
        case WorldFile(world=world, file=file):
            entry = read_record(layout.world_record(world), WorldRecord).files.get(file)
            if entry is None:
                raise StudyError(f"world {world}: has no file {file}; correct its name in benchmarks.yaml")
            sha256 = entry.sha256
            path, remedy = layout.world_folder(world) / file, f"`snakemake -c1 --forcerun {layout.world_record(world)}`"
        case LocalFile(path=name):
            path, remedy = Path(name), "correct its path in benchmarks.yaml"
        case PackageFile(package=package, file=file):
            path, remedy = _package_folder(package) / file, f"install the version of {package} that ships it"
        case HubSplit():
            path, remedy = _from_hub(location), "name a file of the repository as its split"
    if not path.is_file():
        raise StudyError(f"{path}: missing; {remedy}")
    if sha256 and sha256_of(path) != sha256:
        raise StudyError(f"{path}: not the file that the world's record names; {remedy}")
    return path


def check_worlds(suite: SuiteSpec, layout: Layout) -> None:
    """Raise StudyError if a world whose files the suite reads is not today's."""
    for world, expected in suite.world_hashes.items():
        path = layout.world_record(world)
        if read_record(path, WorldRecord).spec_hash != expected:
            raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c1 {path}`")


def _package_folder(package: str) -> Path:
    from importlib.util import find_spec

    found = find_spec(package)
    if found is None or found.origin is None:
        raise StudyError(f"package {package}: not installed; `pip install` the distribution that ships it")
    return Path(found.origin).parent


def _from_hub(split: HubSplit) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = "/".join(filter(None, [split.config, split.split]))
    try:
        return Path(hf_hub_download(split.hub, name, repo_type="dataset", revision=split.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise StudyError(
            f"{split.hub}: {name}: {str(error).splitlines()[0]}; check the name, or download the file and give `path`"
        ) from None
