"""Imports a base model to scratch. By hand: `python workflow/scripts/fetch_model.py results/models/MODEL/spec.yaml`."""

from sftstudy.models import fetch_model
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.records import write_record
from sftstudy.spec import ModelSpec


def main() -> None:
    """Read the spec, fetch, write `model.json`."""
    arguments = parser(__doc__).parse_args()
    spec, layout = read_spec(arguments.spec, ModelSpec), layout_of(arguments)
    write_record(layout.model_record(spec.name), fetch_model(spec, layout=layout))


if __name__ == "__main__":
    run(main)
