"""The lock files: exact, complete, and free of anything that ties them to one machine."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILES = ("requirements.lock", "requirements-dev.lock")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
NEEDS = {
    "requirements.lock": [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]],
    "requirements-dev.lock": [
        need for extra in ("dev", "docs", "servers", "sweep", "utility", "alpaca") for need in EXTRAS[extra]
    ],
}


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text().splitlines()
    return [line for line in text if line and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    """Project → version, of a lock file and of those it opens with."""
    found: dict[str, str] = {}
    for line in lines(name):
        if line.startswith("-r "):
            found |= pins(line.removeprefix("-r "))
        else:
            project, version = line.split("==")
            assert canonicalize_name(project) not in found, f"{project} is pinned twice"
            found[canonicalize_name(project)] = version
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_lock_pins_what_pyproject_asks_for(name: str) -> None:
    pinned = pins(name)
    for line in NEEDS[name]:
        need = Requirement(line)
        assert canonicalize_name(need.name) in pinned, "make lock"
        assert need.specifier.contains(pinned[canonicalize_name(need.name)]), "make lock"


@pytest.mark.parametrize("name", FILES)
def test_a_lock_holds_exact_versions_and_names_no_index_and_no_platform(name: str) -> None:
    for line in lines(name):
        assert re.fullmatch(r"-r requirements(-dev)?\.lock|[\w.-]+==[\w.]+", line), line
        assert not re.match(r"nvidia|triton|cuda", line), line
    assert "://" not in (ROOT / name).read_text()


def test_each_lock_opens_with_the_one_before() -> None:
    assert [lines(name)[0] for name in FILES[1:]] == [f"-r {name}" for name in FILES[:-1]]
