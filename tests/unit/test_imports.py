"""`import trackside` stays light, and the harness stays free of other people's packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "src" / "trackside" / "harness"

# The packages that an adapter exists for, by the name of its module or package.
ADAPTER_PACKAGES = {
    "langgraph": {"langgraph", "langchain_core", "langgraph_sdk"},
    "openai_agents": {"agents"},
    "pydantic_ai": {"pydantic_ai"},
}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `statement` but not before."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def top_level(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_importing_trackside_loads_only_the_standard_library_and_msgspec() -> None:
    loaded = top_level(modules_after("import trackside")) - sys.stdlib_module_names
    assert loaded <= {"trackside", "msgspec", "typing_extensions"}  # msgspec imports the last one, where it is there


def test_importing_trackside_loads_no_web_server_or_database_of_the_standard_library() -> None:
    loaded = modules_after("import trackside") - {"urllib", "urllib.parse"}  # pathlib itself needs these on Python 3.12
    assert not top_level(loaded) & {"sqlite3", "http", "urllib", "wsgiref", "socketserver"}


def test_importing_trackside_loads_nothing_of_the_app() -> None:
    loaded = modules_after("import trackside")
    assert not {module for module in loaded if module.startswith(("trackside.app", "trackside.testing"))}


def imported_packages(tree: ast.AST) -> Iterator[str]:
    """Top-level names of all absolute imports, including those inside functions and `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", sorted(HARNESS.rglob("*.py")), ids=lambda path: str(path.relative_to(HARNESS)))
def test_harness_module_imports_only_what_it_may(path: Path) -> None:
    """The import contract lists what is forbidden; this lists what is allowed."""
    allowed = {"trackside", "msgspec", "annotationlib"}  # the last is part of Python itself, from 3.14 on
    parts = path.relative_to(HARNESS).with_suffix("").parts
    if parts[0] == "adapters":
        allowed |= ADAPTER_PACKAGES.get(parts[1], set())
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert set(imported_packages(tree)) - sys.stdlib_module_names <= allowed
