"""The servers of a run: what they could do, kept in the run, and whether the model is still the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from safedepth.errors import DataError, RunError
from safedepth.runs import RunDirectory
from safedepth.studies.target import Target

__all__ = ["keep_servers", "recorded", "require_known", "served_notes", "servers_block"]


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A study's configuration as a run is known by: where its servers stand is no part of it.

    Which model answers is; that is the fingerprint's to say, and a server may start again elsewhere.
    """
    return {name: value for name, value in config.items() if name != "servers"}


def require_known(given: Sequence[str], names: Sequence[str | None]) -> None:
    """Raise DataError for a "NAME=URL" whose model is none of the study's."""
    for text in given:
        name, equals, _ = text.partition("=http")
        if equals and not text.startswith("http") and name not in names:
            known = ", ".join(one for one in names if one)
            raise DataError(f"expected --server URL, or NAME=URL with a model out of {known}; found {text!r}")


def keep_servers(run: RunDirectory, role: str, target: Target) -> None:
    """Keep what the probe found of a served model as the table `servers-<role>` of the run.

    Raises RunError where the run was begun with another model under that name, or with servers
    that could do other things.
    """
    served = target.served
    if served is None:
        return
    found = [server.capabilities for server in served.servers]

    def rows() -> pd.DataFrame:
        entries = [
            {
                "fingerprint": one.fingerprint,
                "forced_as": served.forced_as or "",
                "entry": json.dumps(one.entry),
            }
            for one in found
        ]
        return pd.DataFrame(entries)

    begun = run.measurement(f"servers-{role}", rows).iloc[0]
    before, now = str(begun["fingerprint"]), found[0].fingerprint
    if before and now and before != now:
        raise RunError(
            f"expected {target.name} at {found[0].url} to be the model that the run in {run.path} was begun "
            "with, found one that answers the same requests otherwise. Serve the first model again, or "
            "begin another run (--out)"
        )
    if begun["forced_as"] != (served.forced_as or ""):
        raise RunError(
            f"expected a server that forces answers as {begun['forced_as'] or 'nothing'}, as the run in "
            f"{run.path} was begun, found {served.forced_as or 'nothing'} at {found[0].url}. Serve the model "
            "as before, or begin another run (--out)"
        )


def servers_block(targets: Mapping[str, Target]) -> dict[str, Any]:
    """The block `servers` of `summary.json`, by role; empty where no model was probed."""
    block = {
        role: {
            "capabilities": [server.capabilities.entry for server in target.served.servers],
            "forced_as": target.served.forced_as,
        }
        for role, target in targets.items()
        if target.served is not None
    }
    return {"servers": block} if block else {}


def served_notes(targets: Mapping[str, Target], *, sampled: bool, top_k: bool) -> list[str]:
    """What the reader should know of numbers that came through servers.

    `sampled` and `top_k`: whether replies were to be drawn by a seed, and from the likeliest k.
    """
    notes = []
    for target in targets.values():
        served = target.served
        if served is None:
            continue
        if sampled and not served.ability("seed"):
            why = served.ability("seed").evidence
            notes.append(f"{target.name}: replies cannot be had again by their seed. {why}")
        if sampled and top_k and not served.ability("top_k"):
            why = served.ability("top_k").evidence
            notes.append(f"{target.name}: replies were drawn without top-k. {why}")
        if served.forced_as == "text":
            why = served.ability("token_ids").evidence
            notes.append(
                f"{target.name}: answers were forced as text, which the server cuts into tokens itself; a "
                f"depth of k tokens may be another there. {why}"
            )
        if not all(server.capabilities.fingerprint for server in served.servers):
            notes.append(
                f"{target.name} does not repeat its own greedy answers: whether the model behind it changed "
                "during the run could not be checked"
            )
    return notes
