"""What sacct prints, and what it says where there is no accounting."""

from pathlib import Path

import pytest

from sftstudy.accounting import ask_sacct, gpus_of, parse

PRINTED = """\
JobIDRaw|JobName|State|Start|ElapsedRaw|AllocTRES|Comment|WorkDir
23|sftstudy_0f|COMPLETED|1789819300|22|billing=2,cpu=2,gres/gpu=3,mem=11815M,node=1|rule_train_stage_wildcards_m_d_r_1_01-x|/study
25|sftstudy_0f|CANCELLED by 0|None|0|||/study
27|sftstudy_0f|CANCELLED by 1000|1789819347|5|billing=1,cpu=1,mem=11815M,node=1||/study
31|sftstudy_0f|PREEMPTED|1789819400|61|billing=4,cpu=4,gres/gpu:h100=2,gres/gpu=2,mem=16G,node=1||/study
31|sftstudy_0f|NODE_FAIL|1789819500|30|billing=4,cpu=4,gres/gpu:h100=2,mem=16G,node=1||/study
31|sftstudy_0f|RUNNING|1789819600|12|billing=4,cpu=4,gres/gpu:h100=2,gres/gpu=2,mem=16G,node=1||/a|folder
32|sftstudy_0f|PENDING|Unknown|0|||/study
"""


def test_every_start_of_a_job_is_an_allocation() -> None:
    found = parse(PRINTED)
    assert [(one.job, one.state, one.began, one.elapsed_s, one.num_gpus) for one in found] == [
        ("23", "COMPLETED", 1789819300, 22, 3),
        ("27", "CANCELLED", 1789819347, 5, None),
        ("31", "PREEMPTED", 1789819400, 61, 2),
        ("31", "NODE_FAIL", 1789819500, 30, 2),
        ("31", "RUNNING", 1789819600, 12, 2),
    ]
    assert [one.is_held for one in found] == [False] * 4 + [True]
    assert (found[0].comment, found[-1].folder) == ("rule_train_stage_wildcards_m_d_r_1_01-x", "/a|folder")


@pytest.mark.parametrize(
    ("tres", "number"),
    [
        ("", None),
        ("cpu=8,mem=64G,node=1", None),
        ("gres/gpu=8,node=2", 8),
        ("cpu=1,gres/gpu:a100=1,gres/gpu:a40=2", 3),
        ("gres/gpu:a100=2,gres/gpu=2", 2),
        ("gres/gpumem=80,cpu=1", None),
        ("cpu=1,gres/gpu=0", 0),
    ],
)
def test_gpus_are_counted_once(tres: str, number: int | None) -> None:
    assert gpus_of(tres) == number


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("echo 'Slurm accounting storage is disabled' >&2; exit 1", "sacct: Slurm accounting storage is disabled"),
        ("exit 1", "sacct: ended with status 1"),
        (None, "there is no sacct here"),
    ],
)
def test_without_accounting_it_says_why(program: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if program:
        (tmp_path / "sacct").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "sacct").chmod(0o755)
    assert ask_sacct(0.0) == said


def test_it_is_asked_for_this_user_and_for_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "answer").write_text(PRINTED)
    script = f'#!/bin/sh\n[ "$SLURM_TIME_FORMAT" = %s ] && echo "$@" > {tmp_path}/asked && exec /bin/cat {tmp_path}/answer\n'
    (tmp_path / "sacct").write_text(script)
    (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(ask_sacct(0.0)) == 5
    asked = (tmp_path / "asked").read_text().split()
    assert {"--allocations", "--duplicates", "--parsable2"} < set(asked)
    assert any(word.startswith("--starttime=19") for word in asked)
