"""Races a stage's checkpoints on one benchmark for the best: scores growing random subsets of its items and drops who cannot win.

By hand: python workflow/scripts/race_checkpoints.py STAGE/spec.yaml results/suites/SUITE/spec.yaml --benchmark mmlu
"""

from pathlib import Path

from sftstudy import timesheet
from sftstudy.config import Race, Selection
from sftstudy.evaluate.racing import publish_no_race, race_checkpoints
from sftstudy.program import from_json, layout_of, name, parser, read_spec, run
from sftstudy.records import stopped_status
from sftstudy.spec import StageSpec, SuiteSpec, race_hash, spec_hash, stage_names
from sftstudy.train.lease import held, patience


def main() -> None:
    """Race all checkpoints of one stage."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("suite", type=Path, help="the suite's spec.yaml")
    arguments_parser.add_argument("--benchmark", required=True, help="the benchmark to race on")
    arguments_parser.add_argument("--race", type=from_json(Race), default=Race(), help="its rules as JSON")
    arguments = arguments_parser.parse_args()
    stage, suite = read_spec(arguments.spec, StageSpec), read_spec(arguments.suite, SuiteSpec)
    layout = layout_of(arguments)
    selection = Selection.model_validate({"benchmark": arguments.benchmark, "race": arguments.race})
    training = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage) / "training.json"
    expected = race_hash(spec_hash(stage), suite, selection)
    scratch = layout.stage_scratch(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    with timesheet.opened(name(), stage_names(stage), spec_hash=expected, layout=layout):
        if status := stopped_status(training):
            publish_no_race(stage, suite, selection=selection, status=status, layout=layout)
            return
        with held(scratch / "race", patience_s=patience()):
            race_checkpoints(stage, suite, selection=selection, layout=layout)


if __name__ == "__main__":
    run(main)
