"""Training stands above mining: nothing that mines imports it."""

import ast
from pathlib import Path

import raymine

PACKAGE = Path(raymine.__file__).parent


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_nothing_imports_it():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "online":
            assert not any(name.startswith("raymine.online") for name in imported(path)), path
