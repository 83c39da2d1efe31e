"""Reads every row of a data set. By hand: `python workflow/scripts/validate_data.py results/validation/DATA/spec.yaml`."""

from sftstudy.data.validate import validate_data
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.records import write_record
from sftstudy.spec import DataSpec


def main() -> None:
    """Read the spec, read the rows, write `validation.json`."""
    arguments = parser(__doc__).parse_args()
    spec, layout = read_spec(arguments.spec, DataSpec), layout_of(arguments)
    write_record(layout.data_record(spec.name), validate_data(spec, layout=layout))


if __name__ == "__main__":
    run(main)
