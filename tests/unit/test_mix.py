"""Mixtures and orders are pure functions of seeds."""

import numpy as np
import pytest

from sftstudy.errors import StudyError
from sftstudy.order import epoch_order, mixture_rows, samples_of_step
from sftstudy.records import PhaseCounts, PhaseRecord, read_record
from sftstudy.spec import MixPart


def part(phase: str, num_samples: int, available: int) -> MixPart:
    return MixPart(phase=phase, spec_hash="", num_samples=num_samples, available=available)


def test_own_phase_whole_and_replay_a_sample_without_replacement() -> None:
    phases, rows = mixture_rows([part("skills", 5, 5), part("knowledge", 4, 50)], seed=1)
    assert phases.tolist() == [0] * 5 + [1] * 4
    assert rows[:5].tolist() == [0, 1, 2, 3, 4]
    assert len(set(rows[5:].tolist())) == 4
    again = mixture_rows([part("knowledge", 4, 50)], seed=1)[1]
    assert again.tolist() == rows[5:].tolist()
    assert mixture_rows([part("knowledge", 4, 50)], seed=2)[1].tolist() != again.tolist()
    with pytest.raises(StudyError, match="6 rows wanted, 5 available"):
        mixture_rows([part("skills", 6, 5)], seed=1)


def test_order_is_fixed_for_all_time() -> None:
    assert epoch_order(8, seed=0, epoch=0).tolist() == GOLDEN_ORDER
    assert epoch_order(8, seed=0, epoch=1).tolist() != GOLDEN_ORDER


def test_steps_cut_the_endless_stream() -> None:
    steps = [samples_of_step(step, batch_size=4, num_samples=10, seed=7) for step in range(5)]
    stream = np.concatenate(steps).tolist()
    assert [len(step) for step in steps] == [4] * 5
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    big = samples_of_step(1, batch_size=25, num_samples=10, seed=7)
    assert len(big) == 25


def test_mixture_record_counts_tokens(study) -> None:  # type: ignore[no-untyped-def]
    from sftstudy.data.mix import mix_stage

    stage = study.stage()
    record = mix_stage(stage, layout=study.layout)
    phase = read_record(study.layout.phase_record("toy", "facts", "facts"), PhaseRecord)
    counts = PhaseCounts(num_read=18, dropped={}, truncated=0, num_taken=18, num_supervised_tokens=phase.num_supervised_tokens)
    assert record.phases == {"facts": counts}
    assert (record.num_tokens, record.num_supervised_tokens) == (phase.num_tokens, phase.num_supervised_tokens)
    study.layout.tokenised_rows(phase.rows_key).write_bytes(b"broken")
    with pytest.raises(StudyError, match=r"arrow: not the tokenised rows .* --forcerun .*phase.json"):
        mix_stage(stage, layout=study.layout)


GOLDEN_ORDER = [3, 0, 6, 2, 7, 5, 4, 1]
