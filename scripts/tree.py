"""Write the README's tree of modules anew, from the first sentences of their docstrings.

Run it as `make tree`; the architecture test fails when the README lags behind.
"""

import ast
import re
import sys
from pathlib import Path

__all__ = ["main", "render", "replaced"]

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PACKAGE = ROOT / "src" / "safedepth"
MARKED = re.compile(r"(?<=<!-- tree -->\n).*?(?=<!-- /tree -->)", re.DOTALL)


def main() -> None:
    """Put the tree between the markers of the README."""
    README.write_text(replaced(README.read_text(), render(PACKAGE)))


def replaced(text: str, tree: str) -> str:
    """`text` with `tree` between its two markers, which must be there once."""
    new, count = MARKED.subn(lambda _: f"```text\n{tree}```\n", text)
    if count != 1:
        sys.exit(f"README.md must hold one pair of <!-- tree --> and <!-- /tree -->; found {count}.")
    return new


def render(package: Path) -> str:
    """The package as lines of `├── name    what it is for`, ending in a newline."""
    rows = [(f"{package.parent.name}/{package.name}/", first_sentence(package / "__init__.py"))]
    rows += rows_below(package, "")
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:<{width}}{what}".rstrip() + "\n" for name, what in rows)


def rows_below(folder: Path, indent: str) -> list[tuple[str, str]]:
    """What lies in `folder`, as (branch and name, first sentence); files before folders, by name."""
    inside = sorted(
        (entry for entry in folder.iterdir() if is_module(entry)),
        key=lambda entry: (entry.is_dir(), entry.name),
    )
    rows: list[tuple[str, str]] = []
    for entry in inside:
        last = entry == inside[-1]
        branch = indent + ("└── " if last else "├── ")
        if entry.is_dir():
            rows.append((f"{branch}{entry.name}/", first_sentence(entry / "__init__.py")))
            rows += rows_below(entry, indent + ("    " if last else "│   "))
        else:
            rows.append((f"{branch}{entry.name}", first_sentence(entry)))
    return rows


def is_module(entry: Path) -> bool:
    """Whether `entry` is a module or a package; a package's own file is told by the folder's line."""
    return (entry / "__init__.py").is_file() or (entry.suffix == ".py" and entry.name != "__init__.py")


def first_sentence(module: Path) -> str:
    """The docstring up to the first full stop that ends a sentence, on one line, without the stop."""
    docstring = ast.get_docstring(ast.parse(module.read_text()))
    if not docstring:
        sys.exit(f"{module.relative_to(ROOT)} has no docstring. Say in its first sentence what it is for.")
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0].rstrip(".:")


if __name__ == "__main__":
    main()
