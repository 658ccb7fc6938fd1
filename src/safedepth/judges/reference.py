"""From what a user writes after `--judge` to an Inspect scorer."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from inspect_ai._util.registry import registry_create, registry_lookup
from inspect_ai.scorer import Scorer

from safedepth.errors import JudgeError

__all__ = ["BUILT_IN", "judge_name", "resolve_judge"]

BUILT_IN = {"rules": "safedepth/rules", "oracle": "safedepth/oracle", "knowledge": "safedepth/knowledge"}


def judge_name(reference: str) -> str:
    """The short name under which a judge's verdicts are reported."""
    return reference.rpartition("@")[2].rpartition("/")[2] if "@" in reference else reference


def resolve_judge(reference: str) -> Scorer:
    """The scorer a reference names: "rules", "oracle", "knowledge", "package/scorer" or "file.py@name".

    Raises JudgeError where there is no such file, name or scorer, or calling it fails.
    """
    path, at, name = reference.rpartition("@")
    if at:
        return _from_file(Path(path), name, reference)
    registered = BUILT_IN.get(reference, reference)
    if "/" not in registered or registry_lookup("scorer", registered) is None:
        raise JudgeError(
            f"No judge is called {reference!r}. Expected one of {', '.join(BUILT_IN)}, a scorer that Inspect "
            "knows (package/name), or a file and a name in it: path/to/file.py@name."
        )
    created: Any = registry_create("scorer", registered)
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
