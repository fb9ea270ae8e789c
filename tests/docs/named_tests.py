"""Tests that documents name, as `path.py::name`."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def named_in(text: str) -> list[tuple[str, str]]:
    """Which tests a text names: the file, relative to the root, and the test's name."""
    return re.findall(r"`([\w/]+\.py)::(\w+)`", text)


@cache
def names_of(path: str) -> set[str]:
    """Tests and test classes in a file, at any depth, that every run of the suite includes: none marked `long`."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    marks = [node.value for node in tree.body if isinstance(node, ast.Assign) and _gives(node, "pytestmark")]
    if any(map(_says_long, marks)):
        return set()
    nodes = [node for node in ast.walk(tree) if isinstance(node, defined)]
    names = {node.name for node in nodes if not any(map(_says_long, node.decorator_list))}
    names |= {target.id for node in tree.body if isinstance(node, ast.Assign) for target in _named(node)}
    return {name for name in names if name.startswith(("test_", "Test"))}


def _named(node: ast.Assign) -> list[ast.Name]:
    return [target for target in node.targets if isinstance(target, ast.Name)]


def _gives(node: ast.Assign, name: str) -> bool:
    return name in {target.id for target in _named(node)}


def _says_long(mark: ast.expr) -> bool:
    """Whether this is the mark `long`, or a list with it; a set of parameters with long ones does not count."""
    if isinstance(mark, ast.List | ast.Tuple):
        return any(map(_says_long, mark.elts))
    return ast.unparse(mark) == "pytest.mark.long"
