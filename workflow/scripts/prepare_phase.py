"""Tokenises a phase of the data. By hand: `python workflow/scripts/prepare_phase.py results/data/MODEL/DATA/PHASE/spec.yaml`."""

from sftstudy.data.prepare import prepare_phase
from sftstudy.program import count, layout_of, parser, read_spec, run
from sftstudy.records import write_record
from sftstudy.spec import PhaseSpec


def main() -> None:
    """Read the spec, prepare the rows, write `phase.json`."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--threads", type=count, default=1, help="processes that tokenise; the rows do not depend on it")
    arguments = arguments_parser.parse_args()
    spec, layout = read_spec(arguments.spec, PhaseSpec), layout_of(arguments)
    record = prepare_phase(spec, layout=layout, num_processes=arguments.threads)
    write_record(layout.phase_record(spec.model, spec.data, spec.phase), record)


if __name__ == "__main__":
    run(main)
