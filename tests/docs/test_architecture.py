"""The map of the rooms shows everything in them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import trackside

PACKAGE = Path(trackside.__file__).parent
PROJECT = PACKAGE.parent.parent
MAP = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"```text\n(.*?)```", MAP, re.DOTALL)
_IN_FRONT = re.compile(r"^ {0,10}([\w/]+(?:, [\w/]+)*)", re.MULTILINE)
_AMID = re.compile(r"(?: {2}|[,;:.] |\()(\w+)(?=[,;:)]| \(|$)", re.MULTILINE)

OF_APP = ["server", "dashboard", "storage", "streams", "wiring", "engine", "cli"]
FOLDERS = sorted(
    {
        str(path.parent.relative_to(PACKAGE))
        for folder in ("app/storage/_*", "app/cli/*", "harness/*")
        for path in PACKAGE.glob(f"{folder}/**/*.py")
        if "adapters" not in path.parts
    }
)
"""The folders of what the log's room keeps to itself, those of the command line, and those of the harness."""


def names_in(listed: str) -> set[str]:
    """What stands as a name in a part of the map: in front of a line, or in front of what is said of it; not any word."""
    in_front = re.findall(r"\w+", " ".join(_IN_FRONT.findall(listed)))
    return {*in_front, *_AMID.findall(listed)}


@pytest.mark.parametrize("room", ["harness", "app", *(f"app/{room}" for room in OF_APP), *FOLDERS])
def test_every_module_of_a_room_has_its_place_on_the_map(room: str) -> None:
    modules = {path.stem for path in (PACKAGE / room).glob("*.py") if not path.stem.startswith("__")}
    named = {name for listed in ROOMS for name in names_in(listed)}
    assert sorted(modules - named) == []


CODE = ("src", "tests", "typing_tests", "benchmarks", "examples", "scripts", "docs")
MODULES = sorted(
    path
    for folder in CODE
    for path in (PROJECT / folder).rglob("*.py")
    if not any(part == "node_modules" or part.startswith(".") for part in path.relative_to(PROJECT).parts)
)


def test_a_module_is_read_in_one_sitting() -> None:
    lines = {path.relative_to(PROJECT): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {str(path): count for path, count in lines.items() if count > 500} == {}


def test_a_function_fits_on_a_screen() -> None:
    """Parameters and the docstring do not count: each option of a command needs a line or more."""
    long: dict[str, int] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                count = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                if count > 60:
                    long[f"{path.relative_to(PROJECT)}:{node.lineno} {node.name}"] = count
    assert long == {}
