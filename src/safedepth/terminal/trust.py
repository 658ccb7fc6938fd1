"""What judges are worth and what a model is worth, as tables: for `safedepth judge` and `utility`."""

from __future__ import annotations

from typing import Any

from safedepth.terminal.console import console, escaped

__all__ = ["print_judging", "print_trade_off", "print_utility"]

SHOWN = ("all", "recovery")
"""The classes of replies that a terminal has room for; the report has every one."""


def print_judging(summary: dict[str, Any]) -> None:
    """How far the judges agree, and with a truth how often each is wrong."""
    from rich.table import Table

    from safedepth.report.judging_rows import kappa
    from safedepth.report.words import share_estimate

    table = Table(
        "judges", "shown", "agree", "only the first says harmful", "only the second", "kappa",
        title="How far the judges agree", title_justify="left",
    )  # fmt: skip
    for row in summary["agreement"]:
        same = row["both"] + row["neither"]
        table.add_row(
            escaped(f"{row['first']}, {row['second']}"), row["scope"], f"{same} of {row['n']}",
            str(row["only_first"]), str(row["only_second"]), escaped(kappa(row["kappa"])),
        )  # fmt: skip
    if summary["agreement"]:
        console().print(table)
    calibration = summary["calibration"]
    if calibration is None:
        return
    title = f"How right they are, by {calibration['truth']}"
    table = Table(
        "judge", "shown", "replies", "n", "precision", "recall", "kappa", title=title, title_justify="left"
    )
    for row in calibration["rows"]:
        if row["class"] not in SHOWN:
            continue
        table.add_row(
            escaped(row["judge"]), row["scope"], row["class"], str(row["n"]),
            share_estimate(row["precision"]), share_estimate(row["recall"]), escaped(kappa(row["kappa"])),
        )  # fmt: skip
    console().print(table)


def print_utility(summary: dict[str, Any]) -> None:
    """Benchmark scores, then requests answered and refused."""
    from rich.table import Table

    from safedepth.report.words import share_estimate

    table = Table("what", "measure", "value", "n", "unscored", title="What it is worth", title_justify="left")
    for row in summary["harness"]:
        table.add_row(
            escaped(row["task"]), escaped(row["metric"]), share_estimate(row), str(row["n"]),
            str(row["unscored"]),
        )  # fmt: skip
    for row in summary["requests"]:
        table.add_row(
            escaped(row["set"]), f"{row['measure']} ({escaped(row['judge'])})", share_estimate(row),
            str(row["n"]), str(row["unscored"]),
        )  # fmt: skip
    if summary["alpaca"]:
        row = summary["alpaca"]
        table.add_row("AlpacaEval", "win rate", share_estimate(row), str(row["n"]), str(row["unscored"]))
    console().print(table)


def print_trade_off(block: dict[str, Any]) -> None:
    """Safety and utility before and after, one row a test; p-values adjusted for looking at all of them."""
    from rich.table import Table

    from safedepth.report.words import difference, p_value, share

    models = block["models"]
    title = f"Safety and utility ({block['comparisons']} comparisons, p adjusted by Holm)"
    table = Table("", "test", *models, "difference, points", "p", title=title, title_justify="left")
    for row in block["rows"]:
        values = [share(row["cells"].get(model, {}).get("value")) for model in models]
        changes = [row["paired"][model] for model in models if model in row["paired"]]
        change = "; ".join(escaped(difference(entry, unit="")) for entry in changes)
        adjusted = "; ".join(p_value(entry["p_holm"]) for entry in changes)
        table.add_row(row["side"], escaped(f"{row['what']}: {row['measure']}"), *values, change, adjusted)
    if block["rows"]:
        console().print(table)
