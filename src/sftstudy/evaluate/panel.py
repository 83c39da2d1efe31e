"""One judge of a panel: whom to ask and with which prompts, and its verdicts on a set of answers.

Every reply is a line of a journal under scratch, one journal per checkpoint, so that no answer is judged twice; only server errors
are asked again by the next job. Matches whose requests are equal word by word share a reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftstudy import timesheet
from sftstudy.config import Judge, MtBenchSuite
from sftstudy.errors import StudyError
from sftstudy.evaluate.budget import Ledger
from sftstudy.evaluate.client import Reply, Request, ask
from sftstudy.evaluate.journal import open_journal, read_journal
from sftstudy.evaluate.prompts import Asked, FastChatPrompts, Match, PrometheusPrompts, Prompts
from sftstudy.evaluate.servers import serve
from sftstudy.evaluate.verdicts import Verdict, read_verdict
from sftstudy.locate import locate
from sftstudy.paths import Layout
from sftstudy.records import ModelRecord, read_record
from sftstudy.spec import digest

EQUAL_ANSWERS = "The answers are equal; nobody was asked. [[C]]"


@dataclass(frozen=True)
class Panelist:
    """A judge, its prompts, and the hash of its weights if we serve them."""

    judge: Judge
    prompts: Prompts
    weights: Path | None
    weights_hash: str | None

    @property
    def identity(self) -> list[Any]:
        """Who judges, however it is reached and however often it is asked."""
        judge = self.judge
        asked_for = [judge.temperature, judge.max_tokens, judge.merge_system, judge.extra]
        return [judge.model, *self._server, *asked_for]

    @property
    def _server(self) -> list[Any]:
        return [self.judge.server, self.judge.server_options, self.weights_hash]

    def request(self, match: Match, repeat: int) -> Request:
        """The request that asks for one verdict; its key is the hash of who judges, all that is sent, and the judging's number."""
        judge = self.judge
        messages = [{"role": "system", "content": match.system_prompt}, {"role": "user", "content": match.user_prompt}]
        if judge.merge_system:
            messages = [{"role": "user", "content": f"{match.system_prompt}\n{match.user_prompt}"}]
        body: dict[str, Any] = {"model": judge.model, "messages": messages, judge.max_tokens_key: judge.max_tokens}
        body |= {} if judge.temperature is None else {"temperature": judge.temperature}
        body |= {"seed": repeat} if judge.weights else {}
        body |= judge.extra
        return Request(digest([self._server, body, repeat]), body)


def make_panelist(judge: Judge, settings: MtBenchSuite, *, model_hashes: Mapping[str, str], layout: Layout) -> Panelist:
    """A judge of a suite. Raises StudyError if its prompts or its weights are missing, or are not today's."""
    prompts: Prompts
    if judge.prompts is not None:
        prompts = PrometheusPrompts(locate(judge.prompts, layout, registry="benchmarks.yaml"), judge.rubric)
    else:
        prompts = FastChatPrompts(locate(settings.prompts, layout, registry="benchmarks.yaml"), pairs=settings.against is not None)
    if judge.weights is None:
        return Panelist(judge, prompts, None, None)
    path, folder = layout.model_record(judge.weights), layout.model_folder(judge.weights)
    record = read_record(path, ModelRecord)
    if record.spec_hash != model_hashes[judge.weights]:
        raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c1 {path}`")
    if not (folder / "config.json").is_file():
        raise StudyError(f"{folder}: weights are gone; to make them again: snakemake -c all --forcerun {path}")
    return Panelist(judge, prompts, folder, record.weights_hash)


def judge_all(member: Panelist, asked: Iterable[Asked], *, journals: Mapping[str, Path], ledger: Path, log: Path) -> list[Verdict]:
    """All verdicts of one judge: those that the journals (checkpoint -> file) hold, and new ones, which are added to them.

    Raises StudyError if the judge answers none of the requests, or if its budget is used up.
    """
    judge = member.judge
    replies = {
        reply.key: reply for path in journals.values() for reply in read_journal(path, Reply) if reply.status != "server_error"
    }
    wanted: list[tuple[Match, int, str]] = []
    unasked: dict[str, tuple[str, Request]] = {}
    for one in asked:
        for match in member.prompts.matches(one):
            for repeat in range(judge.num_judgings):
                request = member.request(match, repeat)
                wanted.append((match, repeat, request.key))
                if one.is_tie(match.turn):
                    replies[request.key] = Reply(key=request.key, status="answered", text=EQUAL_ANSWERS, tstamp=0.0)
                elif request.key not in replies:
                    unasked.setdefault(request.key, (match.ckpt, request))
    timesheet.known(len({key for _, _, key in wanted}) - len(unasked))
    if unasked:
        with ExitStack() as stack:
            append_to = {ckpt: stack.enter_context(open_journal(path)) for ckpt, path in journals.items()}
            base_url = stack.enter_context(serve(judge, weights=member.weights, log=log))
            note = timesheet.laps()

            def append(key: str, reply: Reply) -> None:
                append_to[unasked[key][0]](reply)
                note()

            requests = [request for _, request in unasked.values()]
            new = ask(judge, requests, base_url=base_url, append=append, ledger=Ledger(ledger, judge))
        if not replies and all(reply.status == "server_error" for reply in new.values()):
            first = next(iter(new.values()))
            raise StudyError(f"judge {judge.model}: none of {len(new)} requests was answered: {first.text}; mend it, run again")
        replies |= new
    return [read_verdict(match, repeat, replies[key]) for match, repeat, key in wanted]
