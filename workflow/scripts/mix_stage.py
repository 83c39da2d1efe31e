"""Decides the rows of a stage's mixture. By hand: `python workflow/scripts/mix_stage.py results/runs/.../STAGE/spec.yaml`."""

from sftstudy.data.mix import mix_stage
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.records import write_record
from sftstudy.spec import StageSpec


def main() -> None:
    """Read the spec, mix, write `data.json`."""
    arguments = parser(__doc__).parse_args()
    spec, layout = read_spec(arguments.spec, StageSpec), layout_of(arguments)
    folder = layout.stage_results(spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
    write_record(folder / "data.json", mix_stage(spec, layout=layout))


if __name__ == "__main__":
    run(main)
