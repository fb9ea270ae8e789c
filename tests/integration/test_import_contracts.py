"""Each import contract of pyproject.toml breaks, and no other, when its violation is planted into a copy of src."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
NAMES = {contract["name"]: contract["id"] for contract in CONTRACTS}

Plant = Callable[[str, str], None]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of those parts of the project that import-linter looks at."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def plant(tree: Path) -> Plant:
    """Appends lines to a module, creating it and its packages if they do not exist yet."""

    def append(module: str, lines: str) -> None:
        base = tree / "src" / Path(*module.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        for package in path.relative_to(tree / "src").parents[:-1]:
            (tree / "src" / package).mkdir(exist_ok=True)
            (tree / "src" / package / "__init__.py").touch()
        with path.open("a") as file:
            file.write(f"\n{lines}\n")

    return append


def broken_contracts(tree: Path) -> set[str]:
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "COLUMNS": "300"}
    lint_imports = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [lint_imports, "--no-logo", "--no-cache"],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)\b", result.stdout, re.MULTILINE))
    assert verdicts.keys() == NAMES.keys(), result.stdout + result.stderr
    broken = {NAMES[name] for name, verdict in verdicts.items() if verdict == "BROKEN"}
    assert result.returncode == (1 if broken else 0)
    return broken


def test_the_tree_as_it_is_keeps_every_contract(tree: Path) -> None:
    assert broken_contracts(tree) == set()


VIOLATIONS = [
    ("rooms", "trackside.harness.embedded", "import trackside.app.settings.durations"),
    ("rooms", "trackside.harness.errors", "import trackside.testing.planted"),
    ("rooms", "trackside.app.settings", "import trackside.testing.planted"),
    ("rooms", "trackside.testing.planted", "import trackside.app.settings"),
    ("rooms", "trackside.utils", "NEW_ROOM = True"),
    ("harness-layers", "trackside.harness.embedded", "import trackside.harness.manager"),
    ("harness-layers", "trackside.harness.utils", "NEW_ROOM = True"),
    ("managing-layers", "trackside.harness.managing.places", "import trackside.harness.managing.waiting"),
    ("managing-layers", "trackside.harness.managing.helpers", "NEW_ROOM = True"),
    ("running-layers", "trackside.harness.running.ending", "import trackside.harness.running.verdict"),
    ("running-layers", "trackside.harness.running.helpers", "NEW_ROOM = True"),
    ("observing-layers", "trackside.harness.observing.backlog", "import trackside.harness.observing.buffered"),
    ("observing-layers", "trackside.harness.observing.helpers", "NEW_ROOM = True"),
    ("app-layers", "trackside.app.observers.storage", "import trackside.app.server"),
    ("app-layers", "trackside.app.helpers", "NEW_ROOM = True"),
    ("storage-layers", "trackside.app.storage._reading.queries", "import trackside.app.storage._writing.room"),
    ("storage-layers", "trackside.app.storage._rows.fold", "import trackside.app.storage._databases.growth"),
    ("storage-layers", "trackside.app.storage.helpers", "NEW_ROOM = True"),
    ("cli-layers", "trackside.app.cli.records.stored", "import trackside.app.cli.views.output"),
    ("cli-layers", "trackside.app.cli.helpers", "NEW_ROOM = True"),
    ("observers", "trackside.app.observers.planted", "import trackside.app.observers.storage"),
    ("adapters", "trackside.harness.adapters.planted", "import trackside.harness.adapters.langgraph"),
    ("sql", "trackside.app.cli", "import sqlite3"),
    ("sql", "trackside.app.observers.storage", "from sqlalchemy import select"),
    ("frameworks", "trackside.harness.worker", "def lazily(): from langchain_core import messages"),
    ("frameworks", "trackside.harness.adapters.callables", "import langgraph.graph"),
    ("frameworks", "trackside.harness.adapters.langgraph", "import pydantic_ai"),
    ("private", "trackside.app.cli", "import trackside.app.storage._rows.tables"),
]


@pytest.mark.parametrize(("contract", "module", "line"), VIOLATIONS)
def test_a_planted_violation_breaks_its_contract_and_no_other(
    contract: str, module: str, line: str, tree: Path, plant: Plant
) -> None:
    for imported in re.findall(r"trackside[\w.]+", line):
        plant(imported, "")
    plant(module, line)

    # An upward import also closes a cycle, if something below is imported from above.
    assert broken_contracts(tree) - {"cycles"} == {contract}


def test_a_cycle_between_siblings_breaks_its_contract_alone(tree: Path, plant: Plant) -> None:
    plant("trackside.testing.hen", "import trackside.testing.egg")
    plant("trackside.testing.egg", "import trackside.testing.hen")

    assert broken_contracts(tree) == {"cycles"}


def test_every_contract_has_a_planted_violation() -> None:
    assert {contract for contract, _, _ in VIOLATIONS} | {"cycles"} == set(NAMES.values())
