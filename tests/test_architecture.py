"""The house rules that a machine can check: layers, sizes, docstrings, forbidden things, README tree."""

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tree import render, replaced

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "safedepth"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the top down. A part imports itself and what stands on lower lines.
LAYERS = (
    {"__main__"},
    {"cli"},
    {
        "cli_attack",
        "cli_audit",
        "cli_doctor",
        "cli_dynamics",
        "cli_judge",
        "cli_measure",
        "cli_publish",
        "cli_utility",
    },
    {"cli_words"},
    {"terminal"},
    {"studies", "tasks", "report"},
    {"attacks"},
    {"measure", "judges", "train", "testbed", "utility", "gcg"},
    {"provider", "served"},
    {"chat", "models", "data", "runs"},
    {"nouns"},
    {"errors"},
)
RANK = {part: len(LAYERS) - line for line, parts in enumerate(LAYERS) for part in parts}

# Imports between parts that stand on one line; each needs its reason here.
BESIDE = {
    ("models", "chat"): "a loaded model carries the chat format of its tokenizer",
    ("studies", "tasks"): "a study runs the very tasks that users of Inspect run",
}

MODULE_LINES = 300
FUNCTION_LINES = 60


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "/".join(parts[2:]) if parts[0] == "src" else "/".join(parts)


def part_of(path: Path) -> str:
    """The part of the house that a module belongs to: the first name below safedepth."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(tree: ast.AST, path: Path) -> Iterator[str]:
    """Every part of safedepth that a module imports, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ("safedepth", *path.relative_to(PACKAGE).parts[:-1])
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            # `from safedepth import chat` names the part after the import.
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and called(node) in {
            "import_module",
            "importlib.import_module",
            "__import__",
        }:
            names = [
                arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            ]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("safedepth."))


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def trespasses(source: str, path: Path) -> list[str]:
    """What a module imports although its layer forbids it."""
    own = part_of(path)
    return [
        f"{name_of(path)} imports {part}"
        for part in imported_parts(ast.parse(source), path)
        if part != own and (own, part) not in BESIDE and not RANK[own] > RANK.get(part, len(LAYERS))
    ]


@pytest.mark.parametrize("path", [m for m in MODULES if m != PACKAGE / "__init__.py"], ids=name_of)
def test_a_module_imports_only_lower_layers(path: Path) -> None:
    assert part_of(path) in RANK, "a new part of the house: give it a line in LAYERS"
    assert trespasses(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("measure/kl.py", "from safedepth.judges import rules"),
        (
            "measure/kl.py",
            "def f():\n    import safedepth.provider.engine\n    from safedepth import attacks",
        ),
        ("chat.py", "if TYPE_CHECKING:\n    from safedepth.models import LoadedModel"),
        ("train/losses.py", "from ..testbed.language import answer"),
        ("report/page.py", "from safedepth.studies import audit"),
        ("nouns.py", "import importlib\nimportlib.import_module('safedepth.chat')"),
        ("errors.py", "from safedepth import load_model"),
    ],
)
def test_the_layer_rule_sees_imports_wherever_they_hide(path: str, source: str) -> None:
    assert trespasses(source, PACKAGE / path) != []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "measure/kl.py",
            "from safedepth.measure import statistics\nfrom . import depth\nfrom ..nouns import Head",
        ),
        ("cli.py", "def f():\n    from safedepth.studies.audit import audit"),
        ("models.py", "from safedepth.chat import ChatFormat"),
    ],
)
def test_the_layer_rule_allows_what_stands_below(path: str, source: str) -> None:
    assert trespasses(source, PACKAGE / path) == []


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_and_its_functions_stay_small(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MODULE_LINES, "split it, by noun or by story"
    sizes = [(function.name, lines_without_docstring(function)) for function in functions(ast.parse(source))]
    assert [(name, size) for name, size in sizes if size > FUNCTION_LINES] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "open it with a paragraph on what it is for"


def forbidden(tree: ast.AST) -> Iterator[str]:
    """Unsafe loading and dead spellings: pickle in any form, code from a checkpoint, `torch_dtype`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            yield from (
                name for name in names if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib"}
            )
        elif isinstance(node, ast.Call):
            if called(node) in {"torch.load", "torch.save"} or called(node).endswith(
                (".to_pickle", ".read_pickle")
            ):
                yield called(node)
            yield from (
                "allow_pickle=True"
                for word in node.keywords
                if word.arg == "allow_pickle" and is_not_false(word.value)
            )
            yield from (
                f"{word.arg}="
                for word in node.keywords
                if word.arg == "torch_dtype" or (word.arg == "trust_remote_code" and is_not_false(word.value))
            )
        elif isinstance(node, ast.Attribute) and node.attr == "torch_dtype":
            yield "torch_dtype"
        elif isinstance(node, ast.Constant) and node.value in ("torch_dtype", "trust_remote_code"):
            yield node.value


def is_not_false(node: ast.expr) -> bool:
    return not (isinstance(node, ast.Constant) and node.value is False)


@pytest.mark.parametrize(
    "path",
    sorted(
        itertools.chain(
            MODULES, *((ROOT / folder).rglob("*.py") for folder in ("benchmarks", "recipes", "scripts"))
        )
    ),
    ids=name_of,
)
def test_nothing_unsafe_or_outdated_is_used(path: Path) -> None:
    assert list(forbidden(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "from_pretrained(name, trust_remote_code=True)",
        "from_pretrained(name, trust_remote_code=trust)",
        "from_pretrained(name, **{'trust_remote_code': True})",
        "from_pretrained(name, torch_dtype='auto')",
        "model.config.torch_dtype",
    ],
)
def test_the_rule_on_forbidden_things_finds_them(source: str) -> None:
    assert list(forbidden(ast.parse(source))) != []


def test_the_tree_in_the_readme_is_the_tree_of_the_package() -> None:
    text = (ROOT / "README.md").read_text()
    assert replaced(text, render(PACKAGE)) == text, "the README lags behind: make tree"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_names_what_others_may_use(path: Path) -> None:
    _, *rest = ast.parse(path.read_text()).body
    assigned = [ast.unparse(node.targets[0]) for node in rest if isinstance(node, ast.Assign)]
    assert "__all__" in assigned or not rest, "list its public names in __all__"
