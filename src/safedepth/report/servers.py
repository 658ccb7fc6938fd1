"""The section on servers: what each can do, with evidence, and how tokens were forced through it."""

from __future__ import annotations

from safedepth.report.parts import Section, topic_section
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.topics_measured import SERVER
from safedepth.report.words import MISSING, how_many, named

__all__ = ["sections", "unforced"]

ABILITIES = {
    "continues": "continues an answer that was begun",
    "white_space": "also where it ends in white space",
    "token_ids": "takes token ids and continues them",
    "echo": "tells the log-probabilities of given tokens",
    "seed": "gives the same sample for the same seed",
    "logit_bias": "honours logit biases",
    "top_k": "honours top-k",
    "stop": "stops at given texts",
}
SIGNS = {"yes": "✓", "no": "✗", "unsure": "?"}
FORCED = {"tokens": "as token ids", "text": "as text"}
MARK = 12
"""Digits of a fingerprint that are shown: enough to see whether two are the same."""


def sections(summary: Record) -> list[Section]:
    """The section of a `servers` block; none where no model was reached through a server."""
    block = summary.get("servers")
    if not block:
        return []
    section = topic_section(summary, SERVER, [], [_reached(block), *_abilities(block)])
    return [] if section is None else [section]


def unforced(summary: Record) -> str:
    """That prefilling could not be measured, on which models and why; empty where tokens could be forced."""
    held = {
        role: _in_the_way(of) for role, of in (summary.get("servers") or {}).items() if not of["forced_as"]
    }
    roles = [role for role, answer in held.items() if answer]
    if not roles:
        return ""
    why = "the server does not continue an answer that was begun"
    if "no" not in held.values():
        why = "it could not be shown that the server continues an answer that was begun"
    models = " and ".join(roles) + (" model" if len(roles) == 1 else " models")
    return f"Prefilling, and all else that forces a beginning, could not be measured on the {models}: {why}."


def _in_the_way(of: Record) -> str:
    """The answer that forbids forcing tokens through the servers of one role; empty where none does."""
    found = {
        ability["answer"]
        for server in of["capabilities"]
        for ability in server["abilities"]
        if ability["name"] == "continues"
    }
    return next((answer for answer in ("no", "unsure") if answer in found), "")


def _reached(block: Record) -> Table:
    """Every server, a row each: whose it is, how tokens were forced, and which model answers there."""
    rows = [
        [
            role,
            named(server["url"]),
            named(server["model"]),
            ", ".join(server["served_as"]) or MISSING,
            FORCED.get(of["forced_as"], "not at all"),
            how_many(server["context"]) if isinstance(server["context"], int) else MISSING,
            _mark(server["fingerprint"]),
        ]
        for role, of in block.items()
        for server in of["capabilities"]
    ]
    head = ["", "server", "asked for", "lists", "tokens were forced", "context, tokens", "fingerprint"]
    note = (
        "The fingerprint is a hash of greedy answers to the same few requests: two servers with the same one "
        "answer as the same model. summary.json has it whole."
    )
    return Table("How each model was reached", head, rows, words=len(head), open=True, note=note)


def _abilities(block: Record) -> list[Table]:
    """What each server can do, with what was sent and came back; those that say nothing new wait."""
    found: list[Table] = []
    told: set[tuple[object, ...]] = set()
    for role, of in block.items():
        for server in of["capabilities"]:
            rows = [
                [
                    ABILITIES.get(ability["name"], named(ability["name"])),
                    _signed(ability["answer"]),
                    named(ability["evidence"]),
                ]
                for ability in server["abilities"]
            ]
            answers = tuple(tuple(row[:2]) for row in rows)
            found.append(
                Table(
                    f"What {named(server['url'])} can do ({role})",
                    ["ability", "answer", "evidence"],
                    rows,
                    words=3,
                    open=answers not in told,
                )
            )
            told.add(answers)
    return found


def _signed(answer: object) -> str:
    """An answer with its sign, on one line."""
    text = named(answer)
    return f"{SIGNS[text]}\N{NO-BREAK SPACE}{text}" if text in SIGNS else text


def _mark(fingerprint: object) -> str:
    return f"{str(fingerprint)[:MARK]}…" if fingerprint else MISSING
