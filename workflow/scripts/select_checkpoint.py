"""Makes a stage's selection.json: the checkpoint, chosen by one benchmark's scores, that the next stage starts from.

By hand: python workflow/scripts/select_checkpoint.py STAGE/spec.yaml SUITE/spec.yaml --scores PART01.json --benchmark mmlu
"""

from pathlib import Path

from sftstudy.config import Selection
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.records import stopped_status, write_record
from sftstudy.select import nothing_selected, read_candidates, selection_record
from sftstudy.spec import StageSpec, SuiteSpec


def main() -> None:
    """Choose one of a stage's checkpoints."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("suite", type=Path, help="spec.yaml of the suite that holds the benchmark")
    arguments_parser.add_argument("--scores", type=Path, nargs="+", required=True, help="score records of all parts, in order")
    arguments_parser.add_argument("--benchmark", required=True)
    arguments_parser.add_argument("--rule", choices=("best", "last"), default="best")
    arguments = arguments_parser.parse_args()
    stage, suite = read_spec(arguments.spec, StageSpec), read_spec(arguments.suite, SuiteSpec)
    selection = Selection(benchmark=arguments.benchmark, rule=arguments.rule)
    folder = layout_of(arguments).stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    if status := stopped_status(folder / "training.json"):
        write_record(folder / "selection.json", nothing_selected(stage, suite, selection=selection, status=status))
        return
    candidates = read_candidates(stage, suite, benchmark=selection.benchmark, records=arguments.scores)
    write_record(folder / "selection.json", selection_record(stage, suite, selection=selection, candidates=candidates))


if __name__ == "__main__":
    run(main)
