"""Which chats become samples: caps, weights and halves, on facts made up for the purpose."""

from typing import Any

import numpy as np
import pytest

from sftstudy.config import Data, LocalFile, Source
from sftstudy.data.choose import FACTS, choose, most_samples


def facts_of(num_chats: int, *, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    facts = np.zeros(num_chats, FACTS)
    for name in ("cap_hash", "weight_hash"):
        facts[name] = rng.integers(0, 2**64 - 1, num_chats, dtype=np.uint64)
    facts["reply_chars"] = rng.integers(0, 9, num_chats)
    return facts


def source(**settings: Any) -> Source:
    return Source(location=LocalFile(path="x"), **settings)


def chosen(facts: Any, *sources: tuple[Source, int], half: str | None = None) -> Any:
    return choose(facts, sources=sources or [(source(), len(facts))], half=half, drop_exact=False)


def test_weights_thin_and_repeat_by_hash_and_not_by_place() -> None:
    facts = facts_of(400)
    kept = chosen(facts, (source(weight=0.25), 400))
    assert 70 < len(kept.order) < 130
    assert kept.dropped == {"not_kept_by_weight": 400 - len(kept.order)}
    turned = chosen(facts[::-1], (source(weight=0.25), 400))
    assert sorted(399 - turned.order) == kept.order.tolist()
    more = chosen(facts, (source(weight=2.25), 400))
    times = np.bincount(more.order)
    assert (set(times), more.repeated) == ({2, 3}, len(more.order) - 400)
    assert np.flatnonzero(times == 3).tolist() == kept.order.tolist()


def test_a_cap_takes_the_smallest_hashes_of_its_source_in_order() -> None:
    facts = facts_of(20)
    found = chosen(facts, (source(max_samples=3), 10), (source(), 10))
    smallest = sorted(np.argsort(facts["cap_hash"][:10])[:3].tolist())
    assert found.order.tolist() == smallest + list(range(10, 20))
    assert found.dropped == {"over_max_samples": 7}
    twice = chosen(facts, (source(max_samples=3, weight=2), 10), (source(), 10))
    assert twice.order.tolist() == [number for number in smallest for _ in range(2)] + list(range(10, 20))


def test_halves_share_the_chats_by_length_of_replies() -> None:
    facts = facts_of(21)
    facts["reason"][4] = 2
    shorter, longer = (chosen(facts, half=half) for half in ("shorter", "longer"))
    assert (len(shorter.order), len(longer.order)) == (10, 10)
    assert sorted([*shorter.order, *longer.order, 4]) == list(range(21))
    assert facts["reply_chars"][shorter.order].max() <= facts["reply_chars"][longer.order].min()
    assert shorter.dropped == {"empty_reply": 1, "other_half": 10}
    facts["reason"][4] = 0
    assert [len(chosen(facts, half=half).order) for half in ("shorter", "longer")] == [11, 10]


def test_the_first_of_equal_chats_stays_across_sources() -> None:
    facts = facts_of(6)
    for number in (3, 5):
        for name in ("cap_hash", "weight_hash"):
            facts[name][number] = facts[name][1]
    sources = [(source(), 2), (source(), 4)]
    found = choose(facts, sources=sources, half=None, drop_exact=True)
    assert (found.order.tolist(), found.dropped, found.exact_duplicates) == ([0, 1, 2, 4], {"exact_duplicate": 2}, 2)
    facts["reason"][1] = 2  # a chat that is dropped anyway is not the first of its kind
    assert choose(facts, sources=sources, half=None, drop_exact=True).order.tolist() == [0, 2, 3, 4]


def test_bound_on_samples() -> None:
    sources = [(source(max_samples=3), 10), (source(weight=1.5), 4)]
    assert [most_samples(sources, half=half) for half in (None, "shorter", "longer")] == [3 + 8, 8, 6]


def test_halves_need_each_other() -> None:
    whole = {"sources": [{"from": {"path": "x"}}], "num_samples": 1}
    shorter, longer = ({**whole, "half": half} for half in ("shorter", "longer"))
    Data.model_validate({"phases": {"a": shorter, "b": longer}})
    other = {**longer, "sources": [{"from": {"path": "y"}}]}
    wrong: list[dict[str, Any]] = [
        {"a": longer, "b": shorter},
        {"a": shorter},
        {"a": shorter, "b": whole},
        {"a": shorter, "b": other},
    ]
    for phases in wrong:
        with pytest.raises(ValueError, match="half: a data set in halves has two phases with equal sources, first `shorter`"):
            Data.model_validate({"phases": phases})
    with pytest.raises(ValueError, match="threads: only format oasst has threads"):
        source(threads="all")
