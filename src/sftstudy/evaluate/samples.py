"""What lm-eval logs of a block of items, as plain values: all metrics of all filters, predictions, and how prompts were asked."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from sftstudy.evaluate.tasks import Exam
from sftstudy.records import Entry
from sftstudy.spec import digest

UNPARSED = frozenset({"", "[invalid]", "[invalidanswer]"})
"""What lm-eval's filters leave of a reply in which they find no answer."""


class Reply(Entry):
    """One item's answer after one filter.

    `values` and `weights` are by metric; a weight is given where the value is a mean of so many. `texts` is the filtered reply
    under "", or the chosen option by metric.
    """

    values: dict[str, float]
    weights: dict[str, float] = {}
    texts: dict[str, str]
    unparsed: bool = False


class TakenItem(Entry):
    """One item with its answers by filter."""

    number: int
    item_hash: str
    log_likelihoods: list[float] | None
    replies: dict[str, Reply]


class TakenBlock(Entry):
    """Answers of one model to some items of one task. `better_high` is by metric, for those that are means over items."""

    items: list[TakenItem]
    requests_hash: str
    first_tokens: list[int]
    better_high: dict[str, bool]
    num_truncated: int


def only(block: TakenBlock, numbers: Collection[int]) -> TakenBlock:
    """A block's answers to some of its items."""
    return block.model_copy(update={"items": [item for item in block.items if item.number in numbers]})


def read_samples(lm: Any, exam: Exam, result: dict[str, Any], *, task: str) -> TakenBlock:
    """A block from lm-eval's result with logged samples, items in order.

    Metrics that are no mean over items, or over the parts of items, are left out: nothing could be paired by item.
    """
    samples: dict[int, dict[str, dict[str, Any]]] = {}
    for sample in result["samples"][task]:
        samples.setdefault(int(sample["doc_id"]), {})[sample["filter"]] = sample
    items = [_item(exam, number, samples[number]) for number in sorted(samples)]
    means = _means(items, result["results"][task])
    kept = [
        item.model_copy(update={"replies": {name: _restrict(reply, means[name]) for name, reply in item.replies.items()}})
        for item in items
    ]
    higher = result["higher_is_better"][task]
    firsts = [next(iter(samples[number].values())) for number in sorted(samples)]
    return TakenBlock(
        items=kept,
        requests_hash=digest([_asked(lm, sample) for sample in firsts]),
        first_tokens=lm.first_tokens.get(firsts[0]["arguments"][0][0], []),
        better_high={metric: bool(higher.get(metric, True)) for names in means.values() for metric in sorted(names)},
        num_truncated=getattr(lm, "num_truncated", 0),
    )


def _item(exam: Exam, number: int, samples: dict[str, dict[str, Any]]) -> TakenItem:
    first = next(iter(samples.values()))
    is_choice = exam.task.OUTPUT_TYPE == "multiple_choice"
    log_likelihoods = [float(reply[0]) for reply in first["filtered_resps"]] if is_choice else None
    return TakenItem(
        number=number,
        item_hash=exam.hashes[number],
        log_likelihoods=log_likelihoods,
        replies={name: _reply(exam, sample, log_likelihoods) for name, sample in samples.items()},
    )


def _reply(exam: Exam, sample: dict[str, Any], log_likelihoods: list[float] | None) -> Reply:
    values: dict[str, float] = {}
    weights: dict[str, float] = {}
    for metric in sample["metrics"]:
        value = sample[metric]
        if isinstance(value, list) and value and all(isinstance(part, bool | int | float) for part in value):
            values[metric], weights[metric] = math.fsum(value) / len(value), float(len(value))
        elif not isinstance(value, list | tuple | dict | str) and value is not None:
            values[metric] = float(value)
    if log_likelihoods is not None:
        options = exam.task.doc_to_choice(sample["doc"])
        return Reply(values=values, weights=weights, texts={metric: _chosen(metric, options, log_likelihoods) for metric in values})
    reply = sample["filtered_resps"][0]
    text = reply if isinstance(reply, str) else "" if not reply else str(reply)
    generated = exam.task.OUTPUT_TYPE == "generate_until"
    return Reply(
        values=values, weights=weights, texts={"": text}, unparsed=generated and text.strip() in UNPARSED | _fallbacks(exam.task)
    )


def _chosen(metric: str, options: list[str], log_likelihoods: list[float]) -> str:
    """The option that a metric takes: the likeliest, by character under `acc_norm`, by byte under `acc_bytes`."""
    lengths = {"acc_norm": [len(option) for option in options], "acc_bytes": [len(option.encode()) for option in options]}
    divisors = lengths.get(metric, [1] * len(options))
    each = [value / (length or 1) for value, length in zip(log_likelihoods, divisors, strict=False)]
    return options[each.index(max(each))]


def _fallbacks(task: Any) -> frozenset[str]:
    """What the task's own filters put in the place of an answer that they don't find."""
    functions = [function for each in task.config.filter_list or [] for function in each["filter"]]
    return frozenset(function["fallback"] for function in functions if isinstance(function.get("fallback"), str))


def _means(items: list[TakenItem], results: dict[str, Any]) -> dict[str, set[str]]:
    """Filter -> the metrics whose value by lm-eval is the mean over items, weighted by their parts."""
    found: dict[str, set[str]] = {}
    for name in items[0].replies:
        found[name] = set()
        for metric in items[0].replies[name].values:
            theirs = results.get(f"{metric},{name}")
            values = [
                (item.replies[name].values.get(metric, math.nan), item.replies[name].weights.get(metric, 1.0)) for item in items
            ]
            mean = math.fsum(value * weight for value, weight in values) / math.fsum(weight for _, weight in values)
            if isinstance(theirs, int | float) and abs(mean - theirs) <= 1e-9:  # NaN equals nothing
                found[name].add(metric)
    return found


def _restrict(reply: Reply, metrics: set[str]) -> Reply:
    values = {metric: value for metric, value in reply.values.items() if metric in metrics}
    return reply.model_copy(update={"values": values})


def _asked(lm: Any, sample: dict[str, Any]) -> list[Any]:
    """All that an item's requests and its grading consist of.

    A chat enters as its messages and not as the text that the model's template makes of them, so that models can be compared.
    """
    return [[[lm.chats.get(text, text), *rest] for text, *rest in sample["arguments"]], sample["target_hash"]]
