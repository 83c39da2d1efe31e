"""Turns a config location into a local file, and says with key and remedy what is not there. A world's file is its record's."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from sftstudy.config import HubSplit, LocalFile, Location, PackageFile, WorldFile
from sftstudy.errors import StudyError
from sftstudy.hashes import sha256_of
from sftstudy.paths import Layout
from sftstudy.records import WorldRecord, read_record

SPACES = "spaces/"
"""Before the name of a space, as in its address: FastChat's MT-Bench files lie in one."""


def locate(location: Location, layout: Layout, *, registry: str) -> Path:
    """Path of a file that exists; `registry` is the config file that a remedy names, such as `data.yaml`.

    For the hub, `split` is the file's name in the data set repository, such as `question.jsonl`; a space is named
    `spaces/OWNER/NAME`.
    """
    match location:
        case WorldFile():
            return world_file(location, layout, registry=registry)
        case LocalFile(path=name):
            path, remedy = Path(name), f"correct its path in {registry}"
        case PackageFile(package=package, file=file):
            path, remedy = package_folder(package) / file, f"install the version of {package} that ships it"
        case HubSplit():
            path, remedy = _from_hub(location), "name a file of the repository as its split"
    if not path.is_file():
        raise StudyError(f"{path}: missing; {remedy}")
    return path


def world_file(location: WorldFile, layout: Layout, *, registry: str) -> Path:
    """Path of a world's file with the bytes that the world's record names."""
    record = layout.world_record(location.world)
    files = read_record(record, WorldRecord).files
    if location.file not in files:
        known = ", ".join(sorted(files))
        raise StudyError(f"world {location.world}: has no file {location.file}; correct its name in {registry} (it has {known})")
    path, remedy = layout.world_folder(location.world) / location.file, f"make it again with `snakemake -c1 --forcerun {record}`"
    if not path.is_file():
        raise StudyError(f"{path}: missing; {remedy}")
    if sha256_of(path) != files[location.file].sha256:
        raise StudyError(f"{path}: not the file that the world's record names; {remedy}")
    return path


def check_worlds(world_hashes: Mapping[str, str], layout: Layout) -> None:
    """Raise StudyError if a world is not today's: `world_hashes` is world -> the spec hash that its record must answer to."""
    for world, expected in world_hashes.items():
        path = layout.world_record(world)
        if read_record(path, WorldRecord).spec_hash != expected:
            raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c1 {path}`")


def package_folder(package: str) -> Path:
    """Folder of an installed package, found without importing it or, for `a.b`, its parent."""
    top, *rest = package.split(".")
    found = find_spec(top)
    for place in (found.submodule_search_locations or []) if found else []:
        folder = Path(place, *rest)
        if folder.is_dir():
            return folder
    raise StudyError(f"package {package}: not installed; `pip install` the distribution that ships it")


def files_below(path: Path) -> list[Path]:
    """A file itself; of a taxonomy's folder, its qna.yaml files by name."""
    return sorted(path.rglob("qna.yaml")) if path.is_dir() else [path]


def check_local(location: Location, *, where: str, folder: bool = False) -> None:
    """Raise StudyError unless a file on disk or in a package is there. `where` is file and key of the location in config.

    A world's file and the hub's need not be here before the jobs that make or fetch them. With `folder`, a folder on disk will do.
    """
    match location:
        case LocalFile(path=path) if folder and Path(path).is_dir():
            pass
        case LocalFile(path=path):
            check_file(Path(path), where=f"{where}.path")
        case PackageFile(package=package, file=file):
            try:
                home = package_folder(package)
            except StudyError as error:
                raise StudyError(f"{where}.package: {error}") from None
            check_file(home / file, where=f"{where}.file", remedy=f"install the version of {package} that ships it")


def check_file(path: Path, *, where: str, remedy: str = "correct the path") -> None:
    """Raise StudyError unless a file is there."""
    if not path.is_file():
        raise StudyError(f"{where}: {path} is missing; {remedy}")


def check_folder(path: Path, *, where: str) -> None:
    """Raise StudyError unless a folder is there."""
    if not path.is_dir():
        raise StudyError(f"{where}: {path} is missing; correct the path")


def name_of(location: Location) -> str:
    """How a message calls a location."""
    match location:
        case WorldFile():
            return f"world {location.world}: {location.file}"
        case LocalFile():
            return str(Path(location.path))
        case PackageFile():
            return f"package {location.package}: {location.file}"
        case HubSplit():
            return f"{location.hub} [{location.split}]"


def _from_hub(split: HubSplit) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = "/".join(filter(None, [split.config, split.split]))
    kind = "space" if split.hub.startswith(SPACES) else "dataset"
    try:
        return Path(hf_hub_download(split.hub.removeprefix(SPACES), name, repo_type=kind, revision=split.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise StudyError(
            f"{split.hub}: {name}: {str(error).splitlines()[0]}; check the name, or download the file and give `path`"
        ) from None
