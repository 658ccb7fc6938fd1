"""The names that `import safedepth` promises."""

import ast
from pathlib import Path

import pytest

import safedepth

INIT = Path(safedepth.__file__)


def names_for_type_checkers() -> dict[str, str]:
    """What the TYPE_CHECKING block imports, as name → module below safedepth."""
    tree = ast.parse(INIT.read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module).removeprefix("safedepth.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", safedepth.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(safedepth, name) is not None
    assert name in dir(safedepth)


def test_type_checkers_and_the_interpreter_find_the_same_names_in_the_same_places() -> None:
    assert names_for_type_checkers() == safedepth._HOME
    assert sorted({*safedepth._HOME, "__version__"}) == safedepth.__all__


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="no attribute 'depht'"):
        _ = safedepth.depht


def test_the_version_is_the_one_of_the_installed_package() -> None:
    pyproject = (INIT.parents[2] / "pyproject.toml").read_text()
    assert f'\nversion = "{safedepth.__version__}"\n' in pyproject
