"""Tests that documents name, as `path.py::name`."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def named_in(text: str) -> list[tuple[str, str]]:
    """Which tests a text names: the file, seen from the root, and the name."""
    return re.findall(r"`([\w/]+\.py)::(\w+)`", text)


@cache
def names_of(path: str) -> set[str]:
    """Functions and classes of a file, at whatever depth, and what its top level gives a name to."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = {node.name for node in ast.walk(tree) if isinstance(node, defined)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}
