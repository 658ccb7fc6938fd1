"""From what a user writes after `--judge` to an Inspect scorer.

A reference is NAME or NAME=MODEL with a name of `BUILT_IN`, `package/scorer` for a scorer
that Inspect knows, or `file.py@name`. MODEL is an Inspect model (`openai/...`, `vllm/...`, `safedepth/PATH`)
or the folder of one.
"""

import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inspect_ai._util.registry import registry_create, registry_lookup
from inspect_ai.scorer import Scorer

from safedepth.errors import JudgeError
from safedepth.judges.catalogue import BUILT_IN, GRADER, BuiltIn
from safedepth.judges.grading import grader_model

__all__ = [
    "default_judges",
    "described",
    "judge_name",
    "require_judges",
    "resolve_judge",
    "with_grader",
]


_REPORTED = re.compile(r"(?P<name>[\w-]+)\((?P<model>[^()]+)\)")


class _Named(NamedTuple):
    """A built-in judge and the model that a reference names for it."""

    judge: BuiltIn
    model: str | None


def _built_in(reference: str) -> _Named | None:
    name, given, model = reference.partition("=")
    judge = BUILT_IN.get(name)
    if judge is None:
        return None
    if given and (not model.strip() or judge.model is None):
        says = "that needs none" if judge.model is None else "after the equals sign"
        raise JudgeError(
            f"expected a judge as NAME or NAME=MODEL, found {reference!r}, with "
            f"{'a model' if model.strip() else 'no model'} {says}. Models go with "
            f"{', '.join(name for name, judge in BUILT_IN.items() if judge.model)}"
        )
    return _Named(judge, model.strip() or None)


def judge_name(reference: str) -> str:
    """The name under which a judge's verdicts are reported: "rubric(gpt-4o)" for "rubric=openai/gpt-4o"."""
    name, given, model = reference.partition("=")
    if given and name in BUILT_IN:
        return f"{name}({model.strip().rstrip('/').rpartition('/')[2]})"
    return reference.rpartition("@")[2].rpartition("/")[2] if "@" in reference else reference


def default_judges(grader: str | None) -> tuple[str, ...]:
    """Two judges side by side: the rubric and the rules, or two without a model where there is no grader."""
    return ("rubric", "rules") if grader else ("rules", "keywords")


def with_grader(judges: Sequence[str], grader: str | None) -> tuple[str, ...]:
    """The references, with the grader written into those that take any model and name none.

    A folder is written with its whole path, so that a run goes on from wherever it is called.
    """
    if grader and Path(grader).expanduser().is_dir():
        grader = str(Path(grader).expanduser().resolve())
    return tuple(
        f"{judge}={grader}" if grader and _takes_any_model(judge) and "=" not in judge else judge
        for judge in judges
    )


def _takes_any_model(reference: str) -> bool:
    named = _built_in(reference)
    return named is not None and named.judge.model == GRADER


def require_judges(judges: Sequence[str]) -> None:
    """Raise JudgeError where a judge cannot be used: before the long work, not in the middle of it.

    Each must resolve, under a name of its own, and name its model, which is looked up and, if it is
    to run here, loaded.
    """
    names = [judge_name(judge) for judge in judges]
    if len(set(names)) != len(names):
        raise JudgeError(f"expected judges with names of their own, found {', '.join(names)}. Leave one out")
    for judge in judges:
        resolve_judge(judge)
        named = _built_in(judge)
        if named is None or named.judge.model is None:
            continue
        if named.judge.model == GRADER and named.model is None:
            raise JudgeError(
                f"The judge {judge!r} needs a model that grades, and none was named. Give one with --grader "
                f"PROVIDER/MODEL, or as {judge}=PROVIDER/MODEL (a folder is safedepth/PATH). rules and "
                "keywords need none."
            )
        grader_model(named.model or f"safedepth/{named.judge.model}", verbatim=named.judge.verbatim)


def described(reference: str) -> dict[str, str | None]:
    """What a report says of a judge: its name, the reference, the model that judges, what it goes by.

    `reference` may also be a name as `judge_name` gives it, of verdicts whose reference is not known.
    """
    name, _, model = reference.partition("=")
    if name not in BUILT_IN and (reported := _REPORTED.fullmatch(reference)):
        name, model = reported["name"], reported["model"]
    judge = BUILT_IN.get(name)
    told = {"name": judge_name(reference), "reference": reference}
    if judge is None:
        return {**told, "model": None, "what": "a scorer of yours"}
    return {**told, "model": model or judge.model, "what": judge.what}


def resolve_judge(reference: str) -> Scorer:
    """The scorer that a reference names.

    Raises JudgeError where there is no such file, name or scorer, or calling it fails. Whether a
    model that judges is there is `require_judges`' business.
    """
    path, at, name = reference.rpartition("@")
    named = _built_in(reference)
    if named is not None:
        arguments = {"model": named.model} if named.model else {}
        return _require_scorer(registry_create("scorer", named.judge.scorer, **arguments), reference)
    if at:
        return _from_file(Path(path), name, reference)
    if "/" not in reference or registry_lookup("scorer", reference) is None:
        raise JudgeError(
            f"No judge is called {reference!r}. Expected one of {', '.join(BUILT_IN)} (NAME=MODEL says which "
            "model judges), a scorer that Inspect knows (package/name), or a file and a name in it: "
            "path/to/file.py@name."
        )
    created: Any = registry_create("scorer", reference)
    return _require_scorer(created, reference)


def _from_file(path: Path, name: str, reference: str) -> Scorer:
    if not path.is_file():
        raise JudgeError(f"The judge {reference!r} needs the file {path}, which does not exist.")
    module_name = f"safedepth_judge_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise JudgeError(f"Expected a Python file, found {path}. A judge is given as path/to/file.py@name.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise JudgeError(f"Loading the judge file {path} failed: {type(error).__name__}: {error}") from error
    made: Any = getattr(module, name, None)
    if made is None:
        raise JudgeError(f"{path} defines nothing called {name!r}. Expected an Inspect scorer of that name.")
    try:
        return _require_scorer(made(), reference)
    except TypeError as error:
        raise JudgeError(
            f"{reference!r} cannot be called without arguments ({error}). Expected a function decorated with "
            "@scorer that takes none."
        ) from error


def _require_scorer(made: Any, reference: str) -> Scorer:
    if not callable(made):
        raise JudgeError(f"{reference!r} gave {type(made).__name__}, not a scorer. Decorate it with @scorer.")
    scorer: Scorer = made
    return scorer
