"""Chooses a checkpoint: of a stage, as its selection.json, or from per-item results that were made elsewhere.

By hand: python workflow/scripts/select_checkpoint.py STAGE/spec.yaml --suites SUITE/spec.yaml --scores PART01.json --benchmark mmlu
     or: python workflow/scripts/select_checkpoint.py --items FILE.csv --record OUT.json
"""

import argparse
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from sftstudy.config import Race, Rule, Selection
from sftstudy.errors import StudyError
from sftstudy.outside import choose_from_items, describe
from sftstudy.program import from_json, layout_of, problem, read_spec, refuse_overwriting, run
from sftstudy.records import stopped_status, write_record
from sftstudy.select import nothing_selected, select_checkpoint, select_winner
from sftstudy.spec import StageSpec, SuiteSpec
from sftstudy.stats import Average


def main() -> None:
    """Choose one checkpoint."""
    arguments = parse()
    if arguments.items:
        refuse_overwriting(arguments.record, arguments.items)
        record = choose_from_items(
            arguments.items,
            rule=arguments.rule,
            average=arguments.average or "micro",
            cluster=arguments.cluster,
            seed=arguments.seed,
        )
        write_record(arguments.record, record)
        print(describe(record))
        return
    selection = selection_of(arguments)
    stage, suites = read_spec(arguments.spec, StageSpec), [read_spec(path, SuiteSpec) for path in arguments.suites]
    folder = layout_of(arguments).stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    if status := stopped_status(folder / "training.json"):
        choice = nothing_selected(stage, suites, selection=selection, status=status)
    elif selection.race:
        choice = select_winner(stage, suites, selection=selection, path=arguments.raced[0])
    else:
        choice = select_checkpoint(stage, suites, selection=selection, records=arguments.scores)
    write_record(folder / "selection.json", choice)


def parse() -> argparse.Namespace:
    """The arguments: those of a stage, or those of per-item results. Raises StudyError if they are neither."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rule", choices=get_args(Rule), default="best", help="`earliest`: within one standard error of the best (default: best)"
    )
    add = parser.add_argument_group("a stage of a study").add_argument
    of_stage = [
        add("spec", type=Path, nargs="?", help="the stage's spec.yaml"),
        add("--suites", type=Path, nargs="+", default=[], help="spec.yaml of each suite that is looked at"),
        add("--scores", type=Path, nargs="*", default=[], help="score records of all their parts, in order"),
        add("--benchmark", help="choose by this one"),
        add("--weights", nargs="+", type=weight, default=[], metavar="BENCHMARK=WEIGHT", help="choose by several"),
        add("--holdout", action="store_true", help="choose on one half of the items"),
        add("--race", type=from_json(Race), help="rules of the race that chose, as JSON; with --raced"),
        add("--raced", type=Path, nargs="*", default=[], help="its race.json, in the place of --scores"),
        add("--results", type=Path, default=Path("results"), help="root of the records"),
        add("--scratch", type=Path, default=Path("scratch"), help="not read; all programs take it"),
    ]
    add = parser.add_argument_group("per-item results from elsewhere").add_argument
    of_items = [
        add(
            "--items",
            type=Path,
            help="CSV (also .csv.gz) or Parquet file with columns ckpt, task, item, correct (true or false, 1 or 0, or a grade "
            "between them), perhaps samples (the order of the checkpoints, else that of their names) and others",
        ),
        add("--record", type=Path, help="the JSON file to write"),
        add("--average", choices=get_args(Average), help="choose by the mean over items (micro, the default), or over tasks"),
        add("--cluster", metavar="COLUMN", help="items with one value of it were drawn together, such as `task`"),
        add("--seed", type=int, default=0, help="of the order of items in the racing replay (default: 0)"),
    ]
    arguments = parser.parse_args()
    others = of_stage if arguments.items else of_items
    if given := [other for other in others if getattr(arguments, other.dest) != other.default]:
        names = ", ".join((other.option_strings or [other.dest])[0] for other in given)
        raise StudyError(
            f"{names}: not with --items, which chooses on all items of its file; leave out"
            if arguments.items
            else f"{names}: only with --items FILE; leave out, or give it"
        )
    if len(arguments.raced) != (arguments.race is not None):
        raise StudyError("give --race RULES with one --raced race.json, or neither")
    if arguments.items and arguments.record is None:
        raise StudyError("--items: give --record OUT.json with it")
    if not arguments.items and not (arguments.spec and arguments.suites and (arguments.benchmark or arguments.weights)):
        raise StudyError("give a stage's spec.yaml with --suites, --scores and --benchmark, or --items FILE with --record OUT.json")
    return arguments


def selection_of(arguments: argparse.Namespace) -> Selection:
    """What a stage's arguments ask for. Raises StudyError if they contradict each other."""
    try:
        return Selection(
            benchmark=arguments.benchmark,
            weights=dict(arguments.weights),
            rule=arguments.rule,
            holdout=arguments.holdout,
            race=arguments.race,
        )
    except ValidationError as error:
        raise StudyError(f"{problem(error)}; change that option") from None


def weight(text: str) -> tuple[str, float]:
    """A benchmark and its weight from `mmlu=0.5`."""
    benchmark, _, number = text.partition("=")
    return benchmark, float(number)


if __name__ == "__main__":
    run(main)
