"""Compares a data set with benchmark items. By hand: `python workflow/scripts/check_overlap.py results/overlap/DATA/spec.yaml`."""

from sftstudy.data.compare import check_overlap
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.records import write_record
from sftstudy.spec import OverlapSpec


def main() -> None:
    """Read the spec, compare, write `overlap.json`."""
    arguments = parser(__doc__).parse_args()
    spec, layout = read_spec(arguments.spec, OverlapSpec), layout_of(arguments)
    write_record(layout.overlap_record(spec.data), check_overlap(spec, layout=layout))


if __name__ == "__main__":
    run(main)
