"""What one row says in each layout that public benchmarks are published in: request, answer, category, id.

One function a layout. Each takes cells whose columns are known to be there, and raises
DataError with the row for a cell that cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from safedepth.data.fields import Cells, category, exchanges, text
from safedepth.errors import DataError
from safedepth.nouns import Message

__all__ = [
    "HEX_PHI",
    "Said",
    "Say",
    "advbench",
    "category_name",
    "category_number",
    "harmbench",
    "harmful_answers",
    "hex_phi",
    "jailbreakbench",
    "malicious_instruct",
    "strongreject",
    "xstest",
]


class Said(NamedTuple):
    """What one row says; `id` is None where the row has none, `benign` true for what should be answered."""

    messages: tuple[Message, ...]
    harmful: str | None = None
    category: str = ""
    id: str | None = None
    benign: bool = False


Say = Callable[[Cells, str, Path], Said]
"""From the cells of a row, its place in words and its file to what it says."""

HEX_PHI: Mapping[int, str] = MappingProxyType(
    {
        1: "1 Illegal Activity",
        3: "3 Hate, Harassment, Violence",
        4: "4 Malware",
        5: "5 Physical Harm",
        6: "6 Economic Harm",
        7: "7 Fraud, Deception",
        8: "8 Adult Content",
        9: "9 Political Campaigning",
        10: "10 Privacy Violation",
        11: "11 Tailored Financial Advice",
    }
)
"""HEx-PHI's categories by their number. The authors withdrew number 2."""


def category_number(path: Path) -> int | None:
    """The number in the name of a HEx-PHI category file, `category_<number>.csv`; None for another file."""
    found = re.fullmatch(r"category_([1-9][0-9]?)\.csv", path.name.lower())
    return int(found[1]) if found else None


def category_name(number: int) -> str:
    """What results call a HEx-PHI category."""
    return HEX_PHI.get(number, f"{number} (withdrawn)" if number == 2 else str(number))


def _own(cells: Cells, column: str, where: str) -> str:
    return text(cells[column], column, where)


def _asked(cells: Cells, column: str, where: str) -> tuple[Message, ...]:
    return (Message(role="user", content=_own(cells, column, where)),)


def hex_phi(cells: Cells, where: str, path: Path) -> Said:
    """HEx-PHI: an instruction with its category, which may be a number or "category_<number>"."""
    group = cells["category"]
    if number := re.fullmatch(r"(?:category_)?([0-9]{1,2})", str(group).lower()):
        group = category_name(int(number[1]))
    return Said(_asked(cells, "instruction", where), category=text(group, "category", where))


def advbench(cells: Cells, where: str, path: Path) -> Said:
    """AdvBench: a goal, and the target as the beginning of its harmful answer."""
    return Said(_asked(cells, "goal", where), _own(cells, "target", where))


def malicious_instruct(cells: Cells, where: str, path: Path) -> Said:
    """MaliciousInstruct: the line is the prompt."""
    return Said(_asked(cells, "prompt", where))


def harmbench(cells: Cells, where: str, path: Path) -> Said:
    """HarmBench: a behaviour, after its context where it has one."""
    behaviour, context = _own(cells, "Behavior", where), cells["ContextString"]
    if context not in (None, ""):
        # As HarmBench's own baselines put the two together.
        behaviour = f"{text(context, 'ContextString', where)}\n\n---\n\n{behaviour}"
    # The older sets have a column of categories, and nothing in it.
    group = cells["SemanticCategory"] if "SemanticCategory" in cells else cells["Category"]
    return Said(
        (Message(role="user", content=behaviour),),
        category=category({"category": group}, where),
        id=_own(cells, "BehaviorID", where),
    )


def strongreject(cells: Cells, where: str, path: Path) -> Said:
    """StrongREJECT: a forbidden prompt and its category."""
    return Said(_asked(cells, "forbidden_prompt", where), category=category(cells, where))


def jailbreakbench(cells: Cells, where: str, path: Path) -> Said:
    """JailbreakBench: goal and target; the id is the behaviour, as in its artifacts."""
    # Harmful and benign behaviours have the same columns and are told apart by the published names.
    return Said(
        _asked(cells, "Goal", where),
        _own(cells, "Target", where),
        _own(cells, "Category", where),
        _own(cells, "Behavior", where),
        benign=path.name.lower() == "benign-behaviors.csv",
    )


def xstest(cells: Cells, where: str, path: Path) -> Said:
    """XSTest: a prompt, benign unless its type is a contrast; the category is the type."""
    kind = _own(cells, "type", where)
    # Before 2025 there was no label; the types of unsafe prompts have always begun so.
    unsafe = kind.startswith("contrast_")
    if "label" in cells and cells["label"] != ("unsafe" if unsafe else "safe"):
        raise DataError(
            f"expected the `label` of {where} to be safe, or unsafe for the types that begin with contrast_; "
            f"found {cells['label']!r:.60} for {kind!r:.60}. Take the file as it is published"
        )
    column = next((name for name in ("id", "id_v2") if name in cells), None)
    own = _own(cells, column, where) if column else None
    return Said(_asked(cells, "prompt", where), category=kind, id=own, benign=not unsafe)


def harmful_answers(cells: Cells, where: str, path: Path) -> Said:
    """The paper's harmful answers: a chat that ends in one."""
    # The paper's code puts a category into the user's message; it is no part of what a chat is.
    messages, group = cells["messages"], ""
    if isinstance(messages, list):
        groups = [item["category"] for item in messages if isinstance(item, Mapping) and "category" in item]
        group = text(groups[0], "category", where) if groups else ""
        messages = [
            {key: value for key, value in item.items() if key != "category"} if isinstance(item, Mapping)
            else item
            for item in messages
        ]  # fmt: skip
    (exchange,) = exchanges({"messages": messages}, where)
    if exchange.answer is None:
        raise DataError(
            f"expected a harmful answer at the end of {where}, found the user's turn. Give a file of "
            "requests alone without the name before it"
        )
    return Said(exchange.messages, exchange.answer, group)
