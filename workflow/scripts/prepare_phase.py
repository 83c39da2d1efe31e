"""Tokenises a phase of the data. By hand: `python workflow/scripts/prepare_phase.py results/data/MODEL/DATA/PHASE/spec.yaml`."""

from sftstudy.data.prepare import prepare_phase
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.records import write_record
from sftstudy.spec import PhaseSpec


def main() -> None:
    """Read the spec, prepare the rows, write `phase.json`."""
    arguments = parser(__doc__).parse_args()
    spec, layout = read_spec(arguments.spec, PhaseSpec), layout_of(arguments)
    record = prepare_phase(spec, layout=layout)
    write_record(layout.phase_record(spec.model, spec.data, spec.phase), record)


if __name__ == "__main__":
    run(main)
