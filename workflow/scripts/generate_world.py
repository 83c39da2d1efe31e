"""Generates a world: corpus, chats, exams. By hand: `python workflow/scripts/generate_world.py results/worlds/WORLD/spec.yaml`."""

from sftstudy.errors import StudyError
from sftstudy.hashes import sha256_of
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.records import FileEntry, WorldRecord, provenance, write_record
from sftstudy.spec import WorldSpec, digest, spec_hash
from sftstudy.world.write import write_world


def main() -> None:
    """Read the spec, write the world's files to scratch, write `world.json`."""
    arguments = parser(__doc__).parse_args()
    spec, layout = read_spec(arguments.spec, WorldSpec), layout_of(arguments)
    folder = layout.world_folder(spec.name)
    try:
        num_rows = write_world(folder, seed=spec.world.seed, **spec.world.sizes)
    except (TypeError, ValueError) as error:
        raise StudyError(f"worlds.yaml: {spec.name}: {error}") from None
    files = {name: FileEntry(num_rows=count, sha256=sha256_of(folder / name)) for name, count in num_rows.items()}
    record = WorldRecord(
        spec_hash=spec_hash(spec),
        content_hash=digest({name: entry.sha256 for name, entry in files.items()}),
        **provenance(),
        files=files,
    )
    write_record(layout.world_record(spec.name), record)


if __name__ == "__main__":
    run(main)
