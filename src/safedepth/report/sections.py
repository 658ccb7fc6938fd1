"""The illustrated sections of the page: which charts, with which words around them.

A section whose numbers the run does not have stays on the page and says why, in the
words of the study (`not_measured`).
"""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.report import (
    adaptive,
    answers,
    attack_findings,
    attacks,
    calibration,
    categories,
    comparison,
    conversations,
    decoding,
    deepening,
    dynamics,
    figures,
    judging,
    judging_rows,
    measuring_findings,
    overview,
    past_refusal,
    precision,
    protection,
    servers,
    suffixes,
    trade_off,
    utility,
)
from safedepth.report import finetuning_findings as finetuning
from safedepth.report.findings import headline_kl
from safedepth.report.parts import Figure, Section, slugs, undrawn, why
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.words import (
    SCOPES,
    count,
    how_many,
    judges,
    named,
    number,
    share_estimate,
)

__all__ = ["TRAINED", "TRUSTED", "sections"]

TRAINED = ("deepen", "compare", *finetuning.KINDS)
"""Kinds of run that are about models after some training: they have sections of their own instead."""
TRUSTED = (judging_rows.KIND, utility.KIND)
"""Kinds of run that are about judges, or about what a model is worth."""
ASKED = (overview, decoding, past_refusal, conversations, suffixes, adaptive)
"""The sections on attacks that leave the weights alone, in reading order."""


def sections(summary: Record, kl_rows: Sequence[Record], scores: Sequence[Record] = ()) -> list[Section]:
    """The illustrated sections in reading order; `kl_rows` are those of `measurements/kl.parquet`.

    `scores` are the means of the judges' own numbers, of those that give one. Last comes the
    server, where there was one: it says what could be measured and what could not.
    """
    return [*_measured(summary, kl_rows, scores), *servers.sections(summary)]


def _measured(summary: Record, kl_rows: Sequence[Record], scores: Sequence[Record]) -> list[Section]:
    kind = summary.get("kind")
    if kind in TRUSTED:
        return [*judging.sections(summary, scores), *utility.sections(summary)]
    found = []
    if kind in attack_findings.KINDS:
        first = adaptive if kind == "adaptive" else suffixes
        asked = [first, *(part for part in ASKED if part is not first)]
        if kind == "adaptive":  # its rates are of tries that were chosen: they rank no attacks
            asked = [adaptive, overview, decoding, *([suffixes] if summary.get("suffix") else [])]
        return [section for part in asked for section in part.sections(summary)]
    if kind not in TRAINED:
        found += [_kl(summary, kl_rows), *answers.sections(summary), *precision.sections(summary)]
    if kind not in (*TRAINED, measuring_findings.KIND):
        found += [*overview.sections(summary), _prefill(summary), _refusal(summary)]
        if summary.get("calibration"):
            found.append(calibration.section(summary))
        for asked_part in ASKED[1:]:
            found += asked_part.sections(summary)
        found += [*categories.sections(summary), *judging.sections(summary)]
    found += trade_off.sections(summary)
    for part in (comparison, deepening, attacks, dynamics, protection):
        found += part.sections(summary)
    return found


def _kl(summary: Record, kl_rows: Sequence[Record]) -> Section:
    chart = figures.kl_by_position(summary)
    drawn: list[Figure] = []
    tables: list[Table] = []
    if chart is not None:
        points = summary["kl"]["per_token"]
        first, last = points[0], points[-1]
        drawn.append(
            Figure(
                id="kl-by-position",
                title="KL divergence by token of the harmful answer",
                full_title="KL(aligned ‖ base) by token of the harmful answer",
                wide=True,
                caption="Mean over answers; the band is the 95 % interval. Shaded: the first five tokens. "
                "Later tokens have fewer answers, because answers end.",
                spoken=f"Line chart. Mean KL is {number(first['mean'])} nats at token {first['position']} "
                f"and {number(last['mean'])} at token {last['position']}. {headline_kl(summary)}",
                chart=chart,
            )
        )
        tables.append(
            Table(
                title="KL by token, as numbers",
                head=["token", "mean KL, nats", "low", "high", "answers"],
                rows=[
                    [
                        str(p["position"]),
                        *(number(p[key]) for key in ("mean", "low", "high")),
                        how_many(p["n"]),
                    ]
                    for p in points
                ],
                words=0,
            )
        )
    strips = figures.kl_along_answers(kl_rows) if chart is not None else None
    if strips is not None:
        drawn.append(
            Figure(
                id="kl-along-answers",
                title="The same, along single answers",
                full_title="KL(aligned ‖ base) along single harmful answers",
                wide=True,
                caption="One row an answer, one cell a token; the stronger, the larger. Drawn are the first "
                f"{figures.STRIPS} answers at most, to token {figures.STRIP_TOKENS}.",
                spoken="Heat map of the KL divergence along single answers, one row for each.",
                chart=strips,
            )
        )
    return Section(
        id="kl",
        title="Where the two models differ",
        intro="Both models read the same harmful answer. At every token of it, this is how far the aligned "
        "model’s distribution over the next token is from the base model’s. Where it is near zero, "
        "alignment no longer changes what comes next.",
        figures=drawn,
        tables=tables,
        missing="" if chart is not None else why(summary, "KL", r"\bkl\b"),
    )


def _prefill(summary: Record) -> Section:
    drawn = []
    for judge, slug in slugs(judges(summary)).items():
        chart = figures.prefill_sweep(summary, judge)
        if chart is None:
            continue
        rates = figures.rates_of_both(summary, attack="prefill", judge=judge)
        spoken = "; ".join(
            f"{r['model']} with {count(r['k'], 'token')}, {SCOPES[r['scope']]}: {share_estimate(r)}"
            for r in rates
        )
        drawn.append(
            Figure(
                id=f"prefill-{slug}",
                title=f"Judge: {judge}",
                full_title=f"Harmful replies by forced tokens (judge: {judge})",
                caption=undrawn(rates),
                spoken=f"Line chart of the share of harmful replies. {spoken}.",
                chart=chart,
            )
        )
    return Section(
        id="prefill",
        title="Forcing the first tokens",
        intro="The reply is made to begin with the first k tokens of a harmful answer; the model writes the "
        "rest. A share that rises within a few tokens is what shallow alignment looks like. Bars are "
        "95 % intervals. A reply no judge could score counts on neither side.",
        figures=drawn,
        missing="" if drawn else why(summary, "the prefill sweep", "prefill"),
    )


def _refusal(summary: Record) -> Section:
    drawn = []
    for judge, slug in slugs(judges(summary)).items():
        chart = figures.refusal_prefixes(summary, judge)
        if chart is None:
            continue
        rates = figures.rates_of_both(summary, attack="refusal_prefix", judge=judge)
        scope = "continuation" if any(r["scope"] == "continuation" for r in rates) else "full"
        shown = [r for r in rates if r["scope"] == scope]
        spoken = "; ".join(f"{r['model']} after “{r['prefix']}”: {share_estimate(r)}" for r in shown)
        drawn.append(
            Figure(
                id=f"refusal-{slug}",
                title=f"Judge: {judge}",
                full_title=f"Harmful replies after a forced refusal (judge: {judge})",
                caption=f"Judged {SCOPES[scope]}. {undrawn(shown)}".rstrip(),
                spoken=f"Bar chart of the share of harmful replies. {spoken}.",
                chart=chart,
            )
        )
    return Section(
        id="refusal",
        title="Forcing a refusal",
        intro="The other way round: the reply is made to begin with a refusal. If a model that was never "
        "aligned now looks safe, then the first words were all the difference.",
        figures=drawn,
        tables=_openings(summary),
        missing="" if drawn else why(summary, "forced refusals", "refusal"),
    )


def _openings(summary: Record) -> list[Table]:
    """How replies to harmful prompts begin when nothing is forced (claim C1)."""
    prefixes = summary.get("refusal_prefixes")
    if not prefixes:
        return []
    share = prefixes.get("share") or {}
    title = "How replies begin when nothing is forced"
    if share.get("value") is not None:
        title += f": a refusal in {share_estimate(share)} of {how_many(share.get('n'))} replies"
    rows = [
        [named(o["model"]), named(o["text"]), f"{how_many(o['count'])} of {how_many(o['n'])}"]
        for o in prefixes.get("openings") or ()
    ]
    return [Table(title=title, head=["model", "first words", "replies"], rows=rows, words=2)]
