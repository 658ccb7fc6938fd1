"""Pushing to the hub: one commit of what a parcel holds, to a repository that is private unless said.

The hub's own client does the work: what was uploaded before an interruption is not uploaded
again. This module asks the hub before anything is sent, and turns its refusals into what to do. A
repository that holds something else is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of whichever HTTP library this version of the client stands on
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from safedepth.errors import DataError, HubError
from safedepth.runs.files import read_json
from safedepth.studies.card import card_licence
from safedepth.studies.parcel import Item, Parcel

__all__ = ["Destination", "destination_of", "push", "require_pushable"]

UNTOUCHED = frozenset({".gitattributes"})
"""What a new repository holds, and a push leaves alone."""


@dataclass(frozen=True)
class Destination:
    """Where to push: `to` is OWNER/NAME, or NAME of whoever is logged in; `revision` is a branch.

    `overwrite` allows to replace what somebody else put there, `token` is that of `hf auth login`
    unless given.
    """

    to: str
    public: bool = False
    revision: str | None = None
    overwrite: bool = False
    token: str | None = None

    @property
    def api(self) -> HfApi:
        """The hub's client for it."""
        return HfApi(token=self.token, library_name="safedepth")


def destination_of(config: Any, *, attacked: bool = False) -> Destination | None:
    """What TRL's options of a training ask for: None without `--push_to_hub`.

    Raises DataError for what is not done: pushing checkpoints, a public repository for an attacked
    model, options about a repository without `--push_to_hub`.
    """
    strategy = str(getattr(config.hub_strategy, "value", config.hub_strategy))
    if not config.push_to_hub:
        if config.hub_model_id is not None:
            raise DataError("expected --push_to_hub with --hub_model_id: nothing is pushed by default")
        return None
    if strategy in ("checkpoint", "all_checkpoints") or config.hub_always_push:
        raise DataError(
            "expected no --hub_strategy that pushes checkpoints and no --hub_always_push: the model is "
            "pushed once, at the end, with its card and its report"
        )
    to = config.hub_model_id or Path(str(config.output_dir)).resolve().name
    public = config.hub_private_repo is False
    if public and attacked:
        raise DataError(_ATTACKED)
    return Destination(to, public=public, revision=config.hub_revision, token=config.hub_token)


_ATTACKED = (
    "expected a private repository for a model whose safety was taken away on purpose, found that a public "
    "one was asked for. Leave it private"
)


def require_pushable(place: Destination, repo_type: str, *, begun: Mapping[str, Any] | None) -> Destination:
    """The destination with its owner, where the hub would take a push: nothing is made there.

    `begun` is what `run.json` of the run says that is to be pushed, None where there is none yet:
    what the repository holds may be an earlier push of it.

    Raises HubError where nobody is logged in, he may not write there, the hub cannot be reached or
    the repository holds something else; DataError for a name that is none.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", place.to):
        raise DataError(f"expected OWNER/NAME of the hub, found {place.to!r}")
    with _explained(place):
        who = place.api.whoami(token=place.token)
        place = _owned(place, who)
        try:
            info = place.api.repo_info(place.to, repo_type=repo_type)
        except RepositoryNotFoundError:
            return place
        if not info.private and not place.public:
            raise HubError(
                f"{place.to} is there already and is public; expected a private repository. Say --public "
                "(in a training: --hub_private_repo False) if everybody may see it, or choose another name."
            )
        head = _head(place, repo_type)
        if head is not None and not place.overwrite:
            marker = "run.json" if repo_type == "dataset" else "report/run.json"
            _require_ours(place, repo_type, marker, begun)
    return place


def _owned(place: Destination, who: Mapping[str, Any]) -> Destination:
    """With the owner's name before it; HubError where this login cannot write to that owner's."""
    to = place.to if "/" in place.to else f"{who['name']}/{place.to}"
    owner = to.partition("/")[0]
    organisations = {str(one.get("name")) for one in who.get("orgs") or ()}
    if owner != who["name"] and owner not in organisations:
        raise HubError(
            f"You are logged in as {who['name']} and belong to no organisation {owner} there; expected an "
            f"owner that you may write for: {', '.join(sorted({str(who['name']), *organisations}))}."
        )
    role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise HubError(
            f"The token of {who['name']} may only read; expected one with write permission. Make one at "
            "huggingface.co/settings/tokens and log in with it: hf auth login"
        )
    return replace(place, to=to)


def push(parcel: Parcel, place: Destination) -> str:
    """Upload the parcel as one commit; the address of the repository.

    Files of an earlier push that are not in the parcel are removed with that commit. Raises as
    `require_pushable`, and HubError where the upload breaks off: the same command goes on.
    """
    if parcel.attacked and place.public:
        raise DataError(_ATTACKED)
    begun = json.loads(parcel.bytes_of(parcel.marker))
    place = require_pushable(place, parcel.repo_type, begun=begun)
    with _explained(place):
        api, kind = place.api, parcel.repo_type
        url = api.create_repo(place.to, repo_type=kind, private=not place.public, exist_ok=True)
        if place.revision is not None:
            api.create_branch(place.to, branch=place.revision, repo_type=kind, exist_ok=True)
        there = set(_files(place, kind)) - UNTOUCHED
        items = _with_licence(parcel, place)
        old = sorted(there - {item.path for item in items})
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationDelete(path_in_repo=path) for path in old
        ]
        operations += [
            CommitOperationAdd(
                path_in_repo=item.path,
                path_or_fileobj=item.data if isinstance(item.data, bytes) else str(item.data),
            )
            for item in items
        ]
        api.create_commit(
            place.to,
            operations,
            commit_message="Pushed by safedepth",
            repo_type=kind,
            revision=place.revision,
            parent_commit=_head(place, kind),
        )
    return str(url)


def _with_licence(parcel: Parcel, place: Destination) -> list[Item]:
    """The items, the card with the licence of the model it was made from, where the hub tells that one."""
    items = list(parcel.items)
    if parcel.base is None:
        return items
    text = parcel.bytes_of("README.md").decode()
    card = ModelCard(text, ignore_metadata_errors=True)
    if card_licence(card) is not None:
        return items
    try:
        found = place.api.model_info(parcel.base).card_data
    except HTTPError:
        return items  # a base that this login cannot see has a licence that is not known
    licence = found.get("license") if found else None
    if isinstance(licence, str):
        card.data["license"] = licence
        items = [Item("README.md", str(card).encode()) if i.path == "README.md" else i for i in items]
    return items


def _require_ours(place: Destination, repo_type: str, marker: str, begun: Mapping[str, Any] | None) -> None:
    """Raise HubError where the repository holds files that were not pushed from this very run."""
    files = set(_files(place, repo_type)) - UNTOUCHED
    if not files:
        return
    if marker in files and begun is not None:
        kept = place.api.hf_hub_download(place.to, marker, repo_type=repo_type, revision=place.revision)
        if read_json(Path(kept)) == begun:
            return
    raise HubError(
        f"{place.to} holds something else already ({len(files)} files, {min(files)!r} among them), which a "
        "push would replace. Choose another name, another --revision, or say --overwrite to 'safedepth push'."
    )


def _files(place: Destination, repo_type: str) -> list[str]:
    try:
        return place.api.list_repo_files(place.to, repo_type=repo_type, revision=place.revision)
    except RevisionNotFoundError:
        return []


def _head(place: Destination, repo_type: str) -> str | None:
    """The commit that a push would follow, None where there is none yet."""
    try:
        return place.api.repo_info(place.to, repo_type=repo_type, revision=place.revision).sha
    except RevisionNotFoundError:
        return None


@contextmanager
def _explained(place: Destination) -> Iterator[None]:
    """The hub's refusals as errors that say what to do."""
    again = "What was uploaded is kept there; the same command goes on with the rest."
    try:
        yield
    except HFValidationError as error:
        raise DataError(f"expected OWNER/NAME of the hub, found {place.to!r}: {error}") from error
    except LocalTokenNotFoundError as error:
        raise HubError("Expected a login at the hub, found none. Log in first: hf auth login") from error
    except LocalEntryNotFoundError as error:
        raise HubError(f"The hub could not be asked what {place.to} holds. Check the network.") from error
    except OfflineModeIsEnabled as error:
        raise HubError("Expected a network, found HF_HUB_OFFLINE set. Unset it, then try again.") from error
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, place, again)) from error
    except HTTPError as error:
        said = str(error) or type(error).__name__
        raise HubError(f"The hub could not be reached ({said}). Check the network. {again}") from error
    except RuntimeError as error:
        # The hub's client, and what uploads for it, on a file that did not arrive; the reason is behind it.
        said = str(error.__cause__ or error).strip().partition("\n")[0]
        raise HubError(f"The upload to {place.to} broke off ({said}). {again}") from error
    except ValueError as error:
        # The hub's client on metadata that it does not take.
        raise HubError(f"The hub did not take it: {str(error).strip()}") from error


def _refusal(error: HfHubHTTPError, place: Destination, again: str) -> str:
    status = error.response.status_code
    said = (error.server_message or str(error)).strip().partition("\n")[0]
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        return f"The hub does not know this login, or not for {place.to} ({said}). Log in anew: hf auth login"
    if status == 403:
        return (
            f"You may not write to {place.to} ({said}). Use a token with write permission for it "
            "(huggingface.co/settings/tokens, then hf auth login), or choose another owner."
        )
    if status in (409, 412):
        return f"Somebody else changed {place.to} meanwhile ({said}). Look at it, then push again."
    return f"The hub refused with status {status} ({said}). {again}"
