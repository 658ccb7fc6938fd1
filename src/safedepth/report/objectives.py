"""How objectives, attacks, beta schedules and positions are called, and which rows of runs are compared.

A row's objective is told with its beta and its warm-up only where other rows of the same
objective have others: what is drawn side by side then differs in what its name says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from safedepth.report.style import Record
from safedepth.report.words import count, named, plain_name

__all__ = [
    "ATTACKS",
    "CONSTRAINED",
    "OBJECTIVES",
    "PLAIN",
    "asked_name",
    "at_positions",
    "attack_kind",
    "attack_name",
    "beta_name",
    "beta_words",
    "forced",
    "is_uniform",
    "labelled",
    "last_steps",
    "main_beta",
    "objective_name",
    "positions_name",
    "stepped_names",
]

PLAIN, CONSTRAINED = "sft", "constrained"
OBJECTIVES = {
    "sft": "plain SFT",
    "sft_warmup": "SFT with warm-up",
    "constrained": "constrained",
    "kl": "KL to the reference",
    "pact": "PACT",
    "safeinstr": "SafeInstr",
}
ATTACKS = {
    "harmful": "harmful examples",
    "identity": "identity shifting",
    "backdoor": "backdoor, with its trigger",
    "backdoor without trigger": "backdoor, without its trigger",
}
ASKED = {
    "plain": "asked plainly",
    "own prompt": "with the attack’s own prompt",
    "with trigger": "with the trigger",
    "without trigger": "without the trigger",
}
KINDS = {"backdoor": "a backdoor", "benign": "harmless examples"}


def objective_name(name: Any) -> str:
    """An objective in words."""
    return OBJECTIVES.get(str(name)) or plain_name(named(name))


def attack_kind(name: Any) -> str:
    """A kind of attack in words, without how the model is then asked."""
    return KINDS.get(str(name)) or attack_name(name)


def attack_name(name: Any) -> str:
    """What a model was fine-tuned on and asked with, in words."""
    return ATTACKS.get(str(name)) or plain_name(named(name))


def labelled(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """The rows with `model`: their objective, with beta, warm-up and model where these tell rows apart."""
    varied: dict[tuple[str, Any], set[Any]] = {}
    for row in rows:
        for key, value in _settings(row).items():
            varied.setdefault((key, row["objective"]), set()).add(value)
    found = []
    for row in rows:
        settings = _settings(row)
        parts = [objective_name(row["objective"])]
        parts += [told for key, told in settings.items() if len(varied[key, row["objective"]]) > 1]
        found.append({**row, "model": ", ".join(parts)})
    return found


def _settings(row: Record) -> dict[str, str]:
    """What a name may have to say beside the objective, as far as the row knows it."""
    found = {"beta": f"β {beta_name(row['beta'])}"} if row["beta"] else {}
    if row["warmup"] is not None:
        found["warmup"] = "warm-up" if row["warmup"] else "no warm-up"
    return found | ({"model": str(row["model"])} if row["model"] else {})


def stepped_names(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows of fine-tuning with `model`: what of objective, model and forced tokens tells them apart."""
    told = {
        "objective": lambda row: objective_name(row.get("objective")),
        "k": lambda row: forced(row.get("k")),
        "model": lambda row: named(row.get("model")).rstrip("/").rpartition("/")[2],
    }
    several = [key for key in told if len({told[key](row) for row in rows}) > 1]
    alone = ["objective"] if any(row.get("objective") for row in rows) else ["model"]
    return [{**row, "model": ", ".join(told[key](row) for key in several or alone)} for row in rows]


def last_steps(rows: Iterable[Record], *, by: Sequence[str]) -> list[Record]:
    """Of the rows that agree in the fields `by` and have a value, the one after the most steps."""
    found: dict[tuple[Any, ...], Record] = {}
    for row in rows:
        if row["value"] is None:
            continue
        key = tuple(row.get(name) for name in by)
        known = found.get(key)
        if known is None or _step(row) >= _step(known):
            found[key] = row
    return list(found.values())


def _step(row: Record) -> float:
    return -1 if row.get("step") is None else float(row["step"])


def is_uniform(beta: Any, betas: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a schedule has one beta for all positions: by its table, else by its name, a number."""
    table = betas.get(str(beta))
    if table and len(table) > 1:
        return len({value for _, value in table}) == 1
    try:
        float(beta_name(beta))
    except ValueError:
        return False
    return True


def beta_name(beta: Any) -> str:
    """A schedule's name; of one beta for all positions the number."""
    return str(beta).removeprefix("uniform ")


def main_beta(block: Record) -> Any:
    """Of the schedules that are not uniform, the one of most constrained runs and tasks; else None."""
    used = [
        row["beta"]
        for row in (*block["runs"], *block["tasks"])
        if row["objective"] == CONSTRAINED and row["beta"] and not is_uniform(row["beta"], block["betas"])
    ]
    return max(dict.fromkeys(used), key=used.count, default=None)


def beta_words(table: Sequence[Any]) -> str:
    """`0.5 at token 1, 2 at tokens 2 to 5, 0.1 from token 6 on` from [position, beta] pairs."""
    runs = [[position for position, _ in group] for _, group in groupby(table, key=lambda pair: pair[1])]
    values = [value for value, _ in groupby(pair[1] for pair in table)]
    if len(runs) == 1:
        return f"{values[0]:g} at every token"
    ends = [(at[0], at[-1]) for at in runs[:-1]] + [(at[0], None) for at in runs[-1:]]
    return ", ".join(f"{value:g} {at_positions(*of)}" for value, of in zip(values, ends, strict=True))


def positions_name(first: Any, last: Any) -> str:
    """A group of response positions: `1`, `2–5`, `41 on`."""
    if last is None:
        return f"{first} on"
    return str(first) if first == last else f"{first}–{last}"


def asked_name(what: Any) -> str:
    """How a model was asked after an attack, in words."""
    return ASKED.get(str(what)) or plain_name(named(what))


def at_positions(first: Any, last: Any) -> str:
    """The same with its preposition: `at token 1`, `at tokens 2 to 5`, `from token 41 on`."""
    if last is None:
        return f"from token {first} on"
    return f"at token {first}" if first == last else f"at tokens {first} to {last}"


def forced(k: Any) -> str:
    """How many tokens of a harmful answer were forced, in words."""
    return f"{count(k, 'token')} forced" if k else "nothing forced"
