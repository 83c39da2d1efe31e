"""A number per program, raised by hand whenever a change to it alters what it writes. Golden losses and tables hold it to that.

The number is part of the spec hash of what the program makes: raising one replans exactly that and what hangs on it, while a
touched or tidied source file replans nothing.
"""

SEMANTICS: dict[str, int] = {
    "generate_world": 1,
    "fetch_model": 1,
    "pretrain_model": 1,
    "validate_data": 2,
    "check_overlap": 1,
    "prepare_phase": 2,
    "mix_stage": 2,
    "train_stage": 3,
    "train_rung": 1,
    "decide_screen": 1,
    "write_screen": 1,
    "fetch_suite": 2,
    "score_harness": 2,
    "race_checkpoints": 1,
    "answer_mt_bench": 2,
    "judge_mt_bench": 2,
    "summarize_mt_bench": 1,
    "normalize_leaderboard": 1,
    "select_checkpoint": 3,
    "retain_weights": 1,
    "collect_scores": 4,
    "render_table": 6,
    "write_numbers": 2,
    "render_figure": 4,
    "summarize_study": 4,
    "check_claims": 3,
    "write_guide": 2,
    "write_report": 1,
    "write_index": 1,
    "replay_race": 1,
    "replay_screen": 3,
    "audit_screen": 3,
    "render_passport": 1,
}

PINNED_MAJORS: dict[str, str] = {"tokenizers": "0", "transformers": "5"}
"""Major versions of what tokenises. They enter a prepared phase's hash from here and not from what is installed: the tables are
rebuilt where neither library is. A test compares them with the pins."""
