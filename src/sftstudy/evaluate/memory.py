"""What a model answered before, request by request: asked again, a request is answered from there and not by the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sftstudy.evaluate.samples import TakenBlock
from sftstudy.records import Entry
from sftstudy.spec import digest

Response = tuple[float, bool] | float | str
"""Log-likelihood and whether it is the greedy one; log-likelihood of a whole text; or a continuation."""


class Answered(Entry):
    """A model's responses to all requests of one text, in order, and the first token ids of the prompt."""

    responses: list[Response]
    first_tokens: list[int]


class TakenSome(Entry):
    """Answers of one model to some items of a benchmark, by task, and the responses that they were made of."""

    taken: dict[str, TakenBlock]
    answers: dict[str, Answered]


def read_answers(paths: Iterable[Path]) -> dict[str, Answered]:
    """All responses in those files of one model that are there."""
    found: dict[str, Answered] = {}
    for path in paths:
        if path.is_file():
            found |= TakenSome.model_validate_json(path.read_bytes()).answers
    return found


class Remembering:
    """A back end of lm-eval's that asks its model only what is not `known`, and keeps in `asked` what it did ask.

    A request is known by its type and all of its arguments, so that no change to a task, a prompt or its shots meets an answer to
    something else.
    """

    def __init__(self, lm: Any, known: Mapping[str, Answered]) -> None:
        self._lm, self._known = lm, known
        self.asked: dict[str, Answered] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._answer(self._lm.loglikelihood, requests)

    def loglikelihood_rolling(self, requests: list[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._answer(self._lm.loglikelihood_rolling, requests)

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._answer(self._lm.generate_until, requests)

    def _answer(self, ask: Callable[[list[Any]], list[Any]], requests: list[Any]) -> list[Any]:
        keys = [digest([request.request_type, request.args]) for request in requests]
        left = {key: list(self._known[key].responses) for key in set(keys) & self._known.keys()}
        found: list[Any] = []
        for key, request in zip(keys, requests, strict=True):
            remembered = left.get(key)
            found.append(remembered.pop(0) if remembered else None)
            if key in left:
                self._lm.first_tokens[request.args[0]] = self._known[key].first_tokens
        unknown = [place for place, response in enumerate(found) if response is None]
        for place, response in zip(unknown, ask([requests[place] for place in unknown]) if unknown else [], strict=True):
            found[place] = response
            before = self.asked.get(keys[place])
            firsts = self._lm.first_tokens.get(requests[place].args[0], [])
            self.asked[keys[place]] = Answered(responses=[*(before.responses if before else []), response], first_tokens=firsts)
        return found
