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
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from safedepth.report import tables, words
from safedepth.report.provenance import UNFINISHED, notes, provenance
from safedepth.report.sections import Figure, Section, sections
from safedepth.report.style import Record
from safedepth.report.transcripts import choose
from safedepth.runs import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["build_report"]

PNG_WIDTH = 640
VEGA_LITE = "_".join(alt.SCHEMA_VERSION.split(".")[:2])  # as vl-convert names versions

LIMITS = {
    "reproduce": "The models here are organisms: tiny models of an invented language, trained in "
    "minutes. They show that this code measures what it says. They do not show that a claim holds for large "
    "models; the paper’s own numbers stand beside ours for that reason.",
    "audit": "Depth is measured along the answers that were given and by the attacks that were run. A model "
    "that withstands them may fall to others; a low rate is no certificate.",
}
LIMITS_OF_ALL = (
    "Intervals are for the choice of prompts (95 %). They do not cover a judge’s mistakes: compare the "
    "judges, and read the transcripts."
)


def build_report(run_dir: Path, *, show_harmful: bool = False, png: bool = False) -> Path:
    """Write `report.html` into a run directory and return its path.

    Reads the run directory only. `show_harmful` leaves the transcripts unredacted;
    `png` also writes every chart to `figures/<id>.png`.

    Raises:
        RunError: the folder is not a run, has no summary yet, or cannot be written.
    """
    run = RunDirectory.read(run_dir)
    summary = run.summary()
    illustrated = sections(summary, _kl_rows(run.load("kl")))
    figures = [figure for section in illustrated for figure in section.figures]
    files = {"report.html": _render(run, summary, illustrated, show_harmful=show_harmful).encode()}
    if png:
        files |= {f"figures/{figure.id}.png": _png(figure) for figure in figures}
    run.rewrite(files)
    return run.path / "report.html"


def _render(run: RunDirectory, summary: Record, illustrated: Sequence[Section], *, show_harmful: bool) -> str:
    replies = run.load("replies")
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
        title=words.title(summary),
        kicker=_kicker(run, summary),
        headline=words.headline(summary),
        tiles=words.tiles(summary),
        notes=notes(run, show_harmful=show_harmful),
        warnings=summary.get("warnings") or [],
        claims=tables.claims(summary),
        sections=illustrated,
        specs={
            f.id: _embedded(f.chart.to_dict(validate=False))
            for section in illustrated
            for f in section.figures
        },
        depths=tables.depths(summary),
        not_measured=summary.get("not_measured") or [],
        rates=tables.rates(summary),
        rates_note=tables.rates_note(summary),
        transcripts=[]
        if replies is None
        else choose(replies, judge=next(iter(words.judges(summary)), None), show_harmful=show_harmful),
        scopes=words.SCOPES,
        show_harmful=show_harmful,
        limits=[LIMITS[summary["kind"]], LIMITS_OF_ALL],
        provenance=provenance(run, summary),
        unfinished="" if run.is_finished else UNFINISHED,
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
        policy=_policy(bundle, script),
        style=Markup(_own("report.css")),
        bundle=Markup(bundle),
        script=Markup(script),
    )


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
    if seeds:
        parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}")
    return " · ".join(parts)


def _unbroken(text: str) -> Markup:
    """Escaped text whose intervals stay on one line."""
    return Markup(re.sub(r"\[[^\[\]]{1,40}\]", r'<span class="nowrap">\g<0></span>', str(escape(text))))


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
