"""Public benchmarks by name: the columns each is published with, and what a row of it says.

A benchmark is asked for by its name, and its file must then have the published columns: a
mended or renamed copy is an error that says so. It knows layouts. It refuses to know where
files lie and which release they are: see `sources` and `releases`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from safedepth.data import layouts
from safedepth.data.fields import cells_of, items_of, require_limit, row_id
from safedepth.data.layouts import Said, Say, category_name, category_number
from safedepth.data.rows import Row, read_lines, read_one_column, read_rows
from safedepth.errors import DataError
from safedepth.nouns import Prompt

__all__ = ["BENCHMARKS", "Benchmark", "Hub", "read_benchmark", "said_of"]


class Hub(NamedTuple):
    """Where a set lies on the hub: the data set's id, its files' names, and the folder they lie in."""

    repository: str
    files: tuple[str, ...]
    folder: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A public set: its title, its layout in words, where it is to be had, and how a row of it is read.

    `columns` are the sets of columns it was published with; a file has exactly one of them.
    `folder` names the files to read where a folder is given; without it a folder is an error.
    `benign` is true where it has benign requests beside the harmful prompts.
    """

    title: str
    layout: str
    origin: str
    say: Say
    columns: tuple[frozenset[str], ...]
    endings: tuple[str, ...] = (".csv",)
    folder: tuple[str, ...] = ()
    hub: Hub | None = None
    benign: bool = False


def said_of(name: str, files: Sequence[Path]) -> Iterator[tuple[Path, Row, Said]]:
    """Every row of a benchmark's files with its file and what it says; numbered through all files.

    Raises DataError for a file of the wrong kind, encoding or syntax, and for every row that
    is not as the benchmark is published.
    """
    known, before = BENCHMARKS[name], 0
    for path in files:
        if path.suffix.lower() not in known.endings:
            raise DataError(
                f"expected a file of {known.title} that ends in {', '.join(known.endings)}: {known.layout}; "
                f"found {path}. {known.origin}"
            )
        rows = _rows(name, path)
        for row in rows:
            yield path, replace(row, number=row.number + before), _said(known, row, path)
        before += len(rows)


def read_benchmark(
    name: str, files: Sequence[Path], *, benign: bool = False, limit: int | None = None
) -> list[Prompt]:
    """A benchmark's prompts, or the benign requests it has beside them; the first `limit` of these.

    Every row of every file is checked, whatever the limit. Raises DataError, with the row,
    for what cannot be used, and where the files hold none of what is asked for.
    """
    require_limit(limit)
    known = BENCHMARKS[name]
    if benign and not known.benign:
        have = ", ".join(other for other, one in BENCHMARKS.items() if one.benign)
        raise DataError(
            f"expected benign requests, found {known.title}, which has harmful ones alone. Sets with benign "
            f"requests are {have}, or a file of your own"
        )
    wanted = {row.number: (row, said) for _, row, said in said_of(name, files) if said.benign == benign}
    if not wanted:
        kind = "benign requests" if benign else "harmful prompts"
        raise DataError(
            f"expected {kind} of {known.title} in {', '.join(map(str, files))}, found none. {known.origin}"
        )
    rows = [row for row, _ in wanted.values()]
    return items_of(rows, None, lambda row: [_prompt(row, wanted[row.number][1])])[:limit]


def _rows(name: str, path: Path) -> list[Row]:
    number = category_number(path)
    if name == "hex-phi" and number is not None:
        rows = read_one_column(path)
        if [row.value for row in rows] == ["Entry not found"]:
            raise DataError(
                f"expected instructions in {path}, found the hub's words for a file it does not have. "
                "Remove the file"
            )
        cells = {"category": category_name(number)}
        return [replace(row, value=cells | {"instruction": row.value}) for row in rows]
    if path.suffix.lower() == ".txt":
        return [replace(row, value={"prompt": row.value}) for row in read_lines(path)]
    return read_rows(path)


def _said(known: Benchmark, row: Row, path: Path) -> Said:
    cells = cells_of(row)
    if cells.keys() not in known.columns:
        found = ", ".join(f"`{column}`" for column in cells) or "none"
        raise DataError(
            f"expected {known.title} as it is published in {row.where}: {known.layout}; found the columns "
            f"{found}. {known.origin}; a file of your own layout is given without the name before it"
        )
    return known.say(cells, row.where, path)


def _prompt(row: Row, said: Said) -> Prompt:
    own = row_id(row, {"id": said.id} if said.id else {}, said.messages, said.harmful)
    return Prompt(own, said.messages, said.harmful, said.category)


def _columns(*layouts: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(layout.split(",")) for layout in layouts)


_JSON = (".jsonl", ".ndjson", ".json")

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "hex-phi": Benchmark(
            title="HEx-PHI",
            layout="a folder of category_<number>.csv without a header, one instruction a row, or the older "
            "bundle of JSON lines with `instruction` and `category`",
            origin="HEx-PHI is handed out by its authors at "
            "huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI",
            say=layouts.hex_phi,
            columns=_columns("instruction,category"),
            endings=(".csv", *_JSON),
            folder=("category_*.csv",),
            hub=Hub("LLM-Tuning-Safety/HEx-PHI", ("category_*.csv",)),
        ),
        "advbench": Benchmark(
            title="AdvBench",
            layout="CSV with `goal` and `target`",
            origin="AdvBench is data/advbench/harmful_behaviors.csv of github.com/llm-attacks/llm-attacks",
            say=layouts.advbench,
            columns=_columns("goal,target"),
        ),
        "malicious-instruct": Benchmark(
            title="MaliciousInstruct",
            layout="a text file with a prompt a line",
            origin="MaliciousInstruct is data/MaliciousInstruct.txt of "
            "github.com/Princeton-SysML/Jailbreak_LLM",
            say=layouts.malicious_instruct,
            columns=_columns("prompt"),
            endings=(".txt",),
        ),
        "harmbench": Benchmark(
            title="HarmBench",
            layout="CSV with `Behavior`, `FunctionalCategory`, `SemanticCategory`, `Tags`, `ContextString` "
            "and `BehaviorID` (its older sets have `Category` for the two categories)",
            origin="HarmBench's text behaviours are data/behavior_datasets/harmbench_behaviors_text_*.csv of "
            "github.com/centerforaisafety/HarmBench",
            say=layouts.harmbench,
            columns=_columns(
                "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID",
                "Behavior,Category,Tags,ContextString,BehaviorID",
            ),
        ),
        "strongreject": Benchmark(
            title="StrongREJECT",
            layout="CSV with `category`, `source` and `forbidden_prompt`",
            origin="StrongREJECT is strongreject_dataset/strongreject_dataset.csv of "
            "github.com/alexandrasouly/strongreject",
            say=layouts.strongreject,
            columns=_columns("category,source,forbidden_prompt"),
        ),
        "jailbreakbench": Benchmark(
            title="JailbreakBench",
            layout="CSV with `Index`, `Goal`, `Target`, `Behavior`, `Category` and `Source`, or the folder "
            "of harmful-behaviors.csv and benign-behaviors.csv",
            origin="JailbreakBench is data/ of huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
            say=layouts.jailbreakbench,
            columns=_columns(
                "Index,Goal,Target,Behavior,Category,Source", ",Goal,Target,Behavior,Category,Source"
            ),
            folder=("harmful-behaviors.csv", "benign-behaviors.csv"),
            hub=Hub(
                "JailbreakBench/JBB-Behaviors", ("harmful-behaviors.csv", "benign-behaviors.csv"), "data"
            ),
            benign=True,
        ),
        "xstest": Benchmark(
            title="XSTest",
            layout="CSV with `prompt`, `type`, `note`, `focus`, often `id` (`id_v1` and `id_v2` in 2023) and "
            "`label` (since 2025)",
            origin="XSTest is xstest_prompts.csv of github.com/paul-rottger/xstest",
            say=layouts.xstest,
            columns=_columns(
                "id,prompt,type,label,focus,note",
                "id_v1,id_v2,type,prompt,focus,note",
                "id,type,prompt,focus,note",
                "prompt,type,label,focus,note",
                "prompt,type,focus,note",
            ),
            hub=Hub("Paul/XSTest", ("xstest_prompts.csv",)),
            benign=True,
        ),
        "harmful-answers": Benchmark(
            title="the paper's harmful answers",
            layout="JSON lines, each a list of one request and its harmful answer as {role, content}, or an "
            "object with such a list in `messages`",
            origin="The paper's files are handed out at "
            "huggingface.co/datasets/Unispac/shallow-vs-deep-safety-alignment-dataset "
            "(data/safety_bench/Harmful-HEx-PHI.jsonl)",
            say=layouts.harmful_answers,
            columns=_columns("messages"),
            endings=_JSON,
            hub=Hub(
                "Unispac/shallow-vs-deep-safety-alignment-dataset",
                ("Harmful-HEx-PHI.jsonl",),
                "data/safety_bench",
            ),
        ),
    }
)
"""The benchmarks by the name that stands before a path."""
