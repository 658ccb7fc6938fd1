"""One HTML file from a run directory: it opens offline, loads nothing and runs no script but ours.

The page's Content-Security-Policy names its two scripts by hash and forbids every
connection, so even text that escaped wrongly could neither run nor call home.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert
from altair.utils.schemapi import debug_mode
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from safedepth.report import (
    attack_findings,
    disagreements,
    findings,
    measuring_findings,
    over_refusals,
    tables,
    transcripts,
    utility,
    words,
)
from safedepth.report.before_after import pair_of
from safedepth.report.finetuning_findings import KINDS
from safedepth.report.limits import limits
from safedepth.report.parts import Figure, Section
from safedepth.report.provenance import UNFINISHED, notes, provenance, source_warnings
from safedepth.report.reading import complete
from safedepth.report.sections import TRAINED, TRUSTED, sections
from safedepth.report.style import Record
from safedepth.report.tested import BEFORE_AFTER
from safedepth.report.transcripts import NEEDED, Exchange, Transcript, choose, side_by_side
from safedepth.runs import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["build_report"]

PNG_WIDTH = 640
OVER_REFUSAL = "over-refusal"
VEGA_LITE = "_".join(alt.SCHEMA_VERSION.split(".")[:2])  # as vl-convert names versions


def build_report(run_dir: Path, *, show_harmful: bool = False, png: bool = False) -> Path:
    """Write `report.html` into a run directory and return its path.

    Reads the run directory only. `show_harmful` leaves the transcripts unredacted;
    `png` also writes every chart to `figures/<id>.png`.

    Raises:
        RunError: the folder is not a run, has no summary yet, or cannot be written.
    """
    run = RunDirectory.read(run_dir)
    summary = complete(run.summary())
    scores = _scores(run.load("replies")) if summary["kind"] in TRUSTED else []
    with debug_mode(False):  # Altair's checks take a third of the time; the tests put all charts to them
        illustrated = sections(summary, _kl_rows(run.load("kl")), scores)
        figures = [figure for section in illustrated for figure in section.figures]
        files = {"report.html": _render(run, summary, illustrated, show_harmful=show_harmful).encode()}
        if png:
            files |= {f"figures/{figure.id}.png": _png(figure) for figure in figures}
    run.rewrite(files)
    return run.path / "report.html"


def _render(run: RunDirectory, summary: Record, illustrated: Sequence[Section], *, show_harmful: bool) -> str:
    chosen, exchanges = _transcripts(run.load("replies"), summary, show_harmful=show_harmful)
    bundle, script = _bundle(), _own("charts.js")
    environment = Environment(
        loader=PackageLoader("safedepth.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template("report.html.j2").render(
        title=findings.title(summary),
        kicker=_kicker(run, summary),
        headline=findings.headline(summary),
        tiles=findings.tiles(summary),
        notes=notes(run, show_harmful=show_harmful),
        warnings=[*summary["warnings"], *source_warnings(summary)],
        claims=tables.claims(summary),
        sections=illustrated,
        specs={
            f.id: _embedded(f.chart.to_dict(validate=False))
            for section in illustrated
            for f in section.figures
        },
        about_rates=_about_depth(summary) and summary["kind"] != measuring_findings.KIND,
        depths=tables.depths(summary),
        depths_by_model=tables.depths_by_model(summary),
        no_depth=tables.no_depth(summary),
        about_depth=_about_depth(summary),
        not_measured=summary["not_measured"],
        rates=tables.rates(summary),
        rates_note=tables.rates_note(summary),
        transcripts=chosen,
        exchanges=exchanges,
        chosen_how=_how(summary),
        scopes=words.SCOPES,
        show_harmful=show_harmful,
        limits=limits(summary),
        provenance=provenance(run, summary),
        unfinished="" if run.is_finished else UNFINISHED,
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
        policy=_policy(bundle, script),
        style=Markup(_own("report.css")),
        bundle=Markup(bundle),
        script=Markup(script),
    )


def _transcripts(
    replies: pd.DataFrame | None, summary: Record, *, show_harmful: bool
) -> tuple[list[Transcript], list[Exchange]]:
    """Replies one by one, and those of models before and after side by side."""
    if replies is None or not set(NEEDED) <= set(replies.columns):
        return [], []
    if summary["kind"] == utility.KIND:
        harmless = [row["set"] for row in summary["requests"] if row["measure"] == OVER_REFUSAL]
        return over_refusals.over_refusals(replies, harmless, show_harmful=show_harmful), []
    if summary["kind"] in TRUSTED:
        return disagreements.disagreements(replies, show_harmful=show_harmful), []
    judge = next(iter(words.judges(summary)), None)
    alone = [] if summary["kind"] in TRAINED else choose(replies, judge=judge, show_harmful=show_harmful)
    models = (summary["deepening"] or {}).get("models") or []
    if summary["kind"] in KINDS:
        # Of dynamics the first and the last looked-at step are compared.
        steps = list(replies["model"].unique())
        models = [steps[0], steps[-1]] if summary["kind"] == "dynamics" and steps else list(BEFORE_AFTER)
    models = [name for name in models if replies["model"].eq(name).any()]
    against = summary["comparison"].get("against")
    # The first two are the ones whose outcomes are compared.
    leading = [name for name in (*(pair_of(summary) or ()), against) if name in models]
    models = list(dict.fromkeys([*leading, *models]))
    beside = side_by_side(
        replies,
        models=models,
        benign=words.benign_sets(summary),
        judge=judge,
        show_harmful=show_harmful,
    )
    return alone, beside


def _about_depth(summary: Record) -> bool:
    """Whether a reader looks for depths, and is told where there are none."""
    elsewhere = summary["kind"] in (*KINDS, *attack_findings.KINDS, *TRUSTED)
    return bool(summary["depth"]) or not elsewhere


def _how(summary: Record) -> str:
    """By which rule the replies were chosen."""
    if summary["kind"] == utility.KIND:
        return over_refusals.HOW
    return disagreements.HOW if summary["kind"] in TRUSTED else transcripts.HOW


def _scores(replies: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The mean of each judge's own numbers in each scope; nothing of judges that give none."""
    if replies is None or not {"score", "judge", "scope"} <= set(replies.columns):
        return []
    given = replies.dropna(subset="score").groupby(["scope", "judge"], sort=True)["score"]
    return [
        {"scope": scope, "judge": judge, "mean": float(of.mean()), "lowest": float(of.min()),
         "highest": float(of.max()), "n": len(of)}
        for (scope, judge), of in given
    ]  # fmt: skip


def _kl_rows(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """KL by prompt and position, without the tokens, which are those of harmful answers."""
    if table is None:
        return []
    return [
        {"prompt_id": str(prompt), "position": int(position), "kl": float(kl)}
        for prompt, position, kl in zip(table["prompt_id"], table["position"], table["kl"], strict=True)
    ]


def _kicker(run: RunDirectory, summary: Record) -> str:
    """The line above the heading: tool, kind of run, date, seeds."""
    seeds = [str(seed) for seed in summary.get("seeds") or ()]
    parts = [f"safedepth {run.begun['versions']['safedepth']}", summary["kind"], str(summary["created"])[:10]]
    parts = [part for part in parts if part]
    if seeds:
        parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}")
    return " · ".join(parts)


def _unbroken(text: str) -> Markup:
    """Escaped text whose intervals stay on one line, and whose percent signs stay with their numbers."""
    text = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", str(escape(text)))
    return Markup(re.sub(r"\[[^\[\]]{1,40}\]", r'<span class="nowrap">\g<0></span>', text))


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; vl-convert carries them, so nothing is fetched."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    # A script element ends here even within a string; in a JavaScript string the escape is the same text.
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _own(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(spec: Record) -> Markup:
    """JSON that cannot end the element it stands in: no `<` is left in it."""
    return Markup(json.dumps(spec, ensure_ascii=False, allow_nan=False).replace("<", r"\u003c"))


def _png(figure: Figure) -> bytes:
    """The chart on white with its title, twice the size of the screen, for a README."""
    spec = figure.chart.properties(
        width=PNG_WIDTH,
        background="white",
        title=alt.TitleParams(figure.full_title, anchor="start", fontSize=15, offset=14),
        padding=16,
    ).to_dict()
    spec["config"]["font"] = "sans-serif"
    # The fonts that come with vl-convert lack this sign and would set the whole line in another face.
    text = json.dumps(spec, ensure_ascii=False).replace("‖", "||")
    picture: bytes = vl_convert.vegalite_to_png(text, vl_version=VEGA_LITE, scale=2, allowed_base_urls=[])
    return picture
