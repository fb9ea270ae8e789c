"""What `scripts/test` does with tests that fail in a whole run: it repeats them once alone, and always reports them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TESTS = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({fail_once}))
def test_sometimes(number):
    tried = Path(__file__).with_name(f"tried-{{number}}")
    again = tried.exists()
    tried.touch()
    assert again

@pytest.mark.parametrize("number", range({fail}))
def test_never(number):
    assert False

def test_always():
    with Path(__file__).with_name("always").open("a") as runs:
        runs.write("run\\n")
"""

PROJECT = """
[tool.pytest.ini_options]
addopts = ["-p", "xdist.plugin", "-p", "pytest_cov.plugin"]

[tool.coverage.run]
source = ["tests"]
"""

WholeRun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def whole_run(tmp_path: Path) -> WholeRun:
    """Runs the script in its own project, whose tests fail once or always."""

    def run(*arguments: str, fail_once: int = 0, fail: int = 0) -> subprocess.CompletedProcess[str]:
        for folder in ("scripts", "tests/unit", ".venv/bin"):
            (tmp_path / folder).mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts")
        program(tmp_path / "scripts" / "bootstrap", "exit 0")
        program(tmp_path / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
        (tmp_path / "pyproject.toml").write_text(PROJECT)
        (tmp_path / "tests" / "unit" / "test_some.py").write_text(TESTS.format(fail_once=fail_once, fail=fail))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
        return subprocess.run(
            [tmp_path / "scripts" / "test", *arguments],
            env={**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_what_passes_alone_is_named_and_fails_nothing(whole_run: WholeRun, tmp_path: Path) -> None:
    said = whole_run("--coverage", fail_once=2)

    assert said.returncode == 0, said.stdout + said.stderr
    *_, first, second, why = said.stdout.splitlines()
    assert {first, second} == {f"UNSTABLE tests/unit/test_some.py::test_sometimes[{number}]" for number in (0, 1)}
    assert "Each is a defect" in why
    assert said.stdout.count("tests coverage") == 1, "of all tests"
    assert (tmp_path / "tests" / "unit" / "always").read_text() == "run\n", "what passed is not run again"


def test_what_fails_again_fails_the_run(whole_run: WholeRun) -> None:
    said = whole_run(fail_once=1, fail=1)

    assert said.returncode == 1
    assert said.stdout.count("FAILED tests/unit/test_some.py::test_never[0]") > 1
    assert "UNSTABLE" not in said.stdout


@pytest.mark.parametrize(
    ("arguments", "failing"), [((), 11), (("unit",), 1)], ids=["what is no accident", "part of the tests"]
)
def test_nothing_else_is_run_again(whole_run: WholeRun, arguments: tuple[str, ...], failing: int) -> None:
    said = whole_run(*arguments, fail_once=failing)

    assert said.returncode == 1
    assert f"{failing} failed" in said.stdout
    assert "UNSTABLE" not in said.stdout
    assert "once more" not in said.stdout
