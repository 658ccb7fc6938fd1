"""Benchmarks out of the hub, with the user's own login and access, at one commit.

It knows how a data set's folder gets here and what its refusals mean. It refuses to know
what is in it.
"""

from __future__ import annotations

from pathlib import Path

from safedepth.data.benchmarks import BENCHMARKS
from safedepth.errors import DataError

__all__ = ["from_hub"]


def from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    """The folder with a benchmark's files as the hub has them at `revision`, and the commit that is.

    The hub's cache is used, so that a commit once fetched is there offline too. Raises
    DataError, with what to do, where there is no access, no such revision, or no way to the hub.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    known = BENCHMARKS[name]
    assert known.hub is not None
    where = known.hub.repository
    wanted = [f"{known.hub.folder}/{file}".lstrip("/") for file in known.hub.files]
    at = f"{name}@{revision}" if revision else name
    copy = f"or give a copy of your own: {name}:PATH"
    try:
        folder = snapshot_download(where, repo_type="dataset", revision=revision, allow_patterns=wanted)
    except GatedRepoError as error:
        raise DataError(
            f"expected access to {where} for {at}, found that the hub does not grant it. Ask for it at "
            f"huggingface.co/datasets/{where}, log in with `hf auth login` once you have it, {copy}"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"expected a branch, tag or commit of {where} in {at}, found none of that name. Check it, {copy}"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"expected the data set {where} for {at}, and the hub shows you none. Log in with "
            f"`hf auth login`, {copy}"
        ) from error
    except (OSError, ValueError) as error:
        # Offline, a time-out, a full disk, a revision the hub's client does not take.
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"expected to fetch {where} from the hub for {at}, found: {reason}. Fetch it where there is a "
            f"network, {copy}"
        ) from error
    snapshot = Path(folder)
    return snapshot / known.hub.folder, snapshot.name
