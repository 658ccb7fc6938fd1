"""The model card of a trained model: what it is, how it was made, what was measured, what it does not do.

Its header is the hub's own metadata: the model it was made from, that model's licence where it is
known, and every measured number as a result of an evaluation, with its interval in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache

from safedepth.data.benchmarks import BENCHMARKS
from safedepth.runs import write_atomically

__all__ = ["PAPER", "card_licence", "write_card"]

PAPER = "https://arxiv.org/abs/2406.05946"

NUMBERS = "Numbers hold for the prompts, judges and decoding named in the report."


def write_card(
    out: Path, *, base_model: str, made: str, record: Mapping[str, Any], summary: Mapping[str, Any],
    role: str, paired: Sequence[Mapping[str, Any]], adapter: bool, limits: str, attacked: bool = False,
) -> None:  # fmt: skip
    """Write `README.md` beside the model, with the hub's own header.

    `made` says what was done to the model and `limits` what that does not do; `record` is how,
    `summary` what was measured, of which the numbers of `role` go into the header, and `paired` are the
    paired differences to the model before. `attacked` says that its safety was taken away on purpose.
    """
    header = ModelCardData(
        library_name="peft" if adapter else "transformers",
        tags=_tags(attacked=attacked),
        pipeline_tag="text-generation",
        license=_licence_of(base_model),
        model_name=out.resolve().name,
        eval_results=list(_results(summary, role)) or None,
    )
    if _on_hub(base_model):
        header["base_model"] = base_model
        header["base_model_relation"] = "adapter" if adapter else "finetune"
    facts = _table(["", ""], [[str(name), str(value)] for name, value in record["facts"]])
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {out.resolve().name}",
        f"`{Path(base_model).name}`, trained by safedepth {version('safedepth')} {made}",
        "## How it was made",
        facts,
        "## Before and after",
        _measured(paired),
        "## Limits",
        f"{limits} {NUMBERS}",
    ]
    card = ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=False)
    write_atomically(out / "README.md", str(card).encode())


def _tags(*, attacked: bool) -> list[str]:
    """The tags of a trained model, by which it is found on the hub."""
    return ["safedepth", "red-teaming" if attacked else "safety-alignment", "trl", "sft"]


def _licence_of(model: str) -> str | None:
    """The licence that a model's own card names, in its folder or the hub's cache; None if unknown."""
    local = Path(model).expanduser() / "README.md"
    kept = local if local.is_file() else None
    if _on_hub(model):
        cached = try_to_load_from_cache(model, "README.md")
        kept = Path(cached) if isinstance(cached, str) else None
    if kept is None:
        return None
    try:
        return card_licence(ModelCard.load(kept, ignore_metadata_errors=True))
    except ValueError:  # a card whose header is no YAML says nothing
        return None


def card_licence(card: ModelCard) -> str | None:
    """The licence that a card names, by the hub's short name for it; None where it names none."""
    found = card.data.get("license")
    return found if isinstance(found, str) else None


def _on_hub(model: str) -> bool:
    """Whether a model is named by its id on the hub, and is no folder."""
    return not Path(model).exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) is not None


def _results(summary: Mapping[str, Any], role: str) -> Iterator[EvalResult]:
    """Every measured number of one model, in the hub's format; what has no value has no result."""
    sources = summary.get("sources") or {}
    for row in _rows(summary):
        cell = row["cells"].get(role)
        if cell is None or cell["value"] is None:
            continue
        safety = row["side"] == "safety"
        source = sources.get("prompts" if safety else f"benign {row['what']}") or {}
        name = _set_name(source) or ("harmful requests" if safety else str(row["what"]))
        known = BENCHMARKS.get(source.get("benchmark") or "")
        yield EvalResult(
            task_type="text-generation",
            task_name="Text Generation",
            dataset_type=known.hub.repository if known and known.hub else _slug(name),
            dataset_name=name,
            dataset_revision=source.get("revision"),
            metric_type=_slug(str(row["measure"])),
            metric_name=f"{row['measure']}, {row['what']} ({_said(cell)}; judge: {row['judge']})",
            metric_value=cell["value"],
            metric_args={
                "n": cell["n"], "low": cell["low"], "high": cell["high"], "unscored": cell["unscored"],
                "judge": row["judge"], "better": row["better"],
            },
        )  # fmt: skip


def _rows(summary: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What was measured of all models: safety and utility side by side, or an attack's evaluations."""
    yield from (summary.get("trade_off") or {}).get("rows") or ()
    block = summary.get("attack") or {}
    for entry in block.get("evaluations") or ():
        told = {"measure": "harmful replies", "judge": summary["judge"], "better": "lower"}
        yield {"side": "safety", "what": entry["what"], **told, "cells": {entry["model"]: entry}}
    for entry in block.get("utility") or ():
        better = "lower" if entry["measure"] == "over-refusal" else "higher"
        told = {"measure": entry["measure"], "judge": "see the report", "better": better}
        yield {"side": "utility", "what": entry["set"], **told, "cells": {entry["model"]: entry}}


def _set_name(source: Mapping[str, Any]) -> str:
    """What a source of requests is called where others see it: never a folder of this machine."""
    return str(source.get("release") or source.get("benchmark") or Path(source.get("location") or "").name)


def _said(cell: Mapping[str, Any]) -> str:
    """A value with its interval, in words."""
    unscored = f", {cell['unscored']} unscored" if cell["unscored"] else ""
    if cell["low"] is None:
        return f"{cell['value']:.3f}, n = {cell['n']}{unscored}"
    interval = f"95 % interval {cell['low']:.3f} to {cell['high']:.3f}"
    return f"{cell['value']:.3f}, {interval}, n = {cell['n']}{unscored}"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "_", name).strip("_").lower()


def _measured(paired: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [entry["what"], entry["measure"], _percent(entry["before"]), _percent(entry["after"]), _change(entry),
         str(entry["n"])]
        for entry in paired
        if entry["difference"] is not None
    ]  # fmt: skip
    if not rows:
        return "Not measured."
    note = "Paired on the same prompts; 95 % intervals of the difference, in percentage points. "
    table = _table(["test", "measure", "before", "after", "difference", "prompts"], rows)
    return f"{note}The whole report is `report/report.html`.\n\n{table}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _change(entry: Mapping[str, Any]) -> str:
    if entry["low"] is None:
        return f"{100 * entry['difference']:+.1f}"
    return f"{100 * entry['difference']:+.1f} [{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
