"""Checks a study's claims and writes `claims.json` and `claims.html`, from results/ alone and without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sftstudy import records
from sftstudy.claims.arms import Arms
from sftstudy.claims.signals import Signals
from sftstudy.claims.verdicts import LEVEL, Measured, decide, pooled, robust
from sftstudy.config import ArmsClaim, Claim, EfficiencyClaim, RobustnessClaim, SignalClaim
from sftstudy.findings import ClaimRecord, ClaimsRecord
from sftstudy.hashes import sha256_of
from sftstudy.paths import Layout
from sftstudy.spec import StudySpec, spec_hash
from sftstudy.tables.aggregate import Pair, Results, load_results
from sftstudy.tables.claims_page import to_html

SEED = 0
"""Of bootstrap draws and permutations: the same page from the same records."""


def check_claims(study: StudySpec, *, layout: Layout) -> None:
    """Write both files of a study. Raises StudyError if its scores were not collected."""
    record = ClaimsRecord(
        study=study.name,
        spec_hash=spec_hash(study),
        scores_hash=sha256_of(layout.scores_csv()) if layout.scores_csv().exists() else "",
        level=LEVEL,
        claims=verdicts(load_results(study, layout=layout), layout=layout, seed=SEED),
    )
    folder = layout.study_folder(study.name)
    records.write_record(folder / "claims.json", ClaimsRecord.model_validate(records.rounded(record.model_dump())))
    records.write_text(folder / "claims.html", to_html(study, record.claims))


def verdicts(results: Results, *, layout: Layout, seed: int) -> list[ClaimRecord]:
    """All claims of a study in their order; those on robustness are decided by the others."""
    arms, signals = Arms(results, layout=layout, seed=seed), Signals(results, layout=layout, seed=seed)
    found: dict[str, ClaimRecord] = {}
    for name, claim in results.study.claims.items():
        if not isinstance(claim, RobustnessClaim):
            found[name] = _record(name, claim, _measured(claim, arms, signals))
    for name, claim in results.study.claims.items():
        if isinstance(claim, RobustnessClaim):
            verdict, cells = robust([(found[other].cells, found[other].pooled) for other in claim.claims], claim.claims)
            found[name] = ClaimRecord(
                name=name, kind=claim.kind, finding=claim.finding, statement=claim.statement, verdict=verdict, cells=cells
            )
    return [found[name] for name in results.study.claims]


def _measured(claim: ArmsClaim | EfficiencyClaim | SignalClaim, arms: Arms, signals: Signals) -> list[Measured]:
    measures: dict[type, Callable[[Any, Pair, str], Measured]] = {
        ArmsClaim: arms.measure,
        EfficiencyClaim: arms.measure_efficiency,
        SignalClaim: signals.measure,
    }
    measure = measures[type(claim)]
    pairs = signals.pairs(claim) if isinstance(claim, SignalClaim) else arms.pairs(claim)
    return [measure(claim, pair, benchmark) for pair in pairs for benchmark in claim.benchmarks]


def _record(name: str, claim: Claim, measured: list[Measured]) -> ClaimRecord:
    verdict, cells = decide(measured)
    return ClaimRecord(
        name=name,
        kind=claim.kind,
        finding=claim.finding,
        statement=claim.statement,
        verdict=verdict,
        cells=cells,
        pooled=pooled(measured),
    )
