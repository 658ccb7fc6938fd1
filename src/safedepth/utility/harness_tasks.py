"""Which tasks lm-eval knows, whether their data can be had, and whether they would run a model's code.

All of it is asked before any model is: an unknown name, data sets out of reach and a missing
consent are said at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

from safedepth.errors import DataError, MissingExtraError

__all__ = ["code_allowed", "find_tasks", "library"]

ALLOWED = "HF_ALLOW_CODE_EVAL"
"""What the `evaluate` library wants to be told before it runs code."""

UNAVAILABLE = (OSError, ValueError, RuntimeError, KeyError, DatasetsError, httpx.HTTPError)
"""What is raised over data sets that cannot be had: no network, no such set, no access, a broken file."""


def library() -> Any:
    """The package lm_eval. Raises MissingExtraError where it is not installed."""
    try:
        return importlib.import_module("lm_eval")
    except ImportError as error:
        raise MissingExtraError("lm-eval", "utility") from error


def find_tasks(names: Sequence[str], include_path: str | None, *, allow_code: bool) -> Any:
    """lm-eval's task manager, once every name is known, allowed, and its data are there.

    Raises as `Harness.of`.
    """
    library()
    if include_path is not None and not Path(include_path).is_dir():
        raise DataError(f"expected a folder of tasks after --include-path, found none at {include_path}")
    manager = _manager_of(names, include_path)
    running = [leaf for name in names for leaf in _leaves(manager.task_index, name) if _runs_code(*leaf)]
    if running and not allow_code:
        raise _consent([name for name, _ in running])
    for name in names:
        try:
            tasks = manager.load([name])["tasks"]
        except ImportError as error:
            raise DataError(
                f"the task {name} needs a package that is not installed ({error}). Install it, or leave the "
                "task out"
            ) from error
        except UNAVAILABLE as error:
            raise _unavailable(name, error) from error
        if not allow_code and (found := [leaf for leaf, task in tasks.items() if _runs(task)]):
            raise _consent(found)
    return manager


def _unavailable(name: str, error: Exception) -> DataError:
    said = " ".join(str(error).split())[:300]
    return DataError(
        f"expected the data of the task {name}, found none that can be had ({type(error).__name__}: {said}). "
        "lm-eval takes them from the Hugging Face hub. Where there is no network, load them once where there "
        "is one and bring the cache along (HF_HOME); for tasks of your own, see --include-path"
    )


def _consent(names: Sequence[str]) -> DataError:
    return DataError(
        f"the tasks {', '.join(dict.fromkeys(names))} run programs that the model writes, on this machine. "
        "Do it where nothing can be harmed, such as a container without network, and say --allow-code; or "
        "leave them out"
    )


def _manager_of(names: Sequence[str], include_path: str | None) -> Any:
    """The manager that knows all names: of the user's folder alone where that is enough, for it is quick."""
    if include_path is not None:
        manager = _manager(include_path, False)
        if all(_known(manager.task_index, name) for name in names):
            return manager
    manager = _manager(include_path, True)
    for name in names:
        if name not in manager.task_index:
            close = difflib.get_close_matches(name, manager.all_tasks, n=5)
            near = f"Close to it: {', '.join(close)}" if close else "Nothing is called so or nearly so"
            raise DataError(
                f"expected a task, tag or group of lm-eval {library().__version__}, found {name!r}. {near}. "
                "`lm-eval ls tasks` lists them all; --include-path DIR adds those of a folder"
            )
    return manager


@cache
def _manager(include_path: str | None, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    return TaskManager(include_path=include_path, include_defaults=defaults)


def _known(index: Mapping[str, Any], name: str) -> bool:
    """Whether a name and all that it consists of are in the index."""
    return name in index and all(child in index for child in _parts(index, name))


def _parts(index: Mapping[str, Any], name: str) -> Iterator[str]:
    """The names of what a group or tag consists of, however deep; nothing for a task."""
    entry = index[name]
    children = (entry.cfg or {}).get("task", ()) if entry.kind.name == "GROUP" else ()
    for child in [*_names(children), *(entry.tags if entry.kind.name == "TAG" else ())]:
        yield child
        if child in index:
            yield from _parts(index, child)


def _names(children: Any) -> Iterator[str]:
    """The names in a group's list: each a name, or settings with one, or a group written out."""
    for child in [children] if isinstance(children, str) else children:
        if isinstance(child, str):
            yield child
        elif isinstance(child.get("task"), str):
            yield child["task"]
        else:
            yield from _names(child.get("task", ()))


def _leaves(index: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for part in (name, *_parts(index, name)):
        if part in index:
            yield part, index[part].cfg or {}


def _runs_code(_name: str, config: Mapping[str, Any]) -> bool:
    return bool(config.get("unsafe_code"))


def _runs(task: Any) -> bool:
    return bool(getattr(task, "UNSAFE_CODE", False))


@contextmanager
def code_allowed(allowed: bool) -> Iterator[None]:
    """While it lasts, programs that a model wrote may be run if `allowed`, and not otherwise."""
    before = os.environ.get(ALLOWED)
    os.environ[ALLOWED] = "1" if allowed else "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[ALLOWED]
        else:
            os.environ[ALLOWED] = before
