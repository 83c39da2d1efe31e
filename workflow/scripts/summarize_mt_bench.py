"""Makes a record of what a FastChat single-judgment file says about each model, read again from the verdicts' text.

By hand: python workflow/scripts/summarize_mt_bench.py --judgments gpt-4_single.jsonl --record summary.json
"""

import argparse
from pathlib import Path

from sftstudy.evaluate.judgments import summarize_judgments
from sftstudy.program import refuse_overwriting, run
from sftstudy.records import write_record


def main() -> None:
    """Summarize one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgments", type=Path, required=True, help="FastChat's model_judgment/JUDGE_single.jsonl")
    parser.add_argument("--record", type=Path, required=True, help="where the record goes")
    parser.add_argument("--questions", type=Path, help="a question.jsonl whose categories count instead of MT-Bench's numbering")
    arguments = parser.parse_args()
    refuse_overwriting(arguments.record, arguments.judgments, arguments.questions)
    write_record(arguments.record, summarize_judgments(arguments.judgments, questions=arguments.questions))


if __name__ == "__main__":
    run(main)
