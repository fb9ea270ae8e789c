"""How `scripts/bootstrap` chooses its Python, on machines that are not as one would wish."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REAL = os.path.realpath(getattr(sys, "_base_executable", sys.executable))

Bootstrap = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bootstrap(tmp_path: Path) -> Bootstrap:
    """Runs the script from elsewhere, with an empty home and only the variables that are given."""

    def run(*arguments: str, path: str = os.defpath, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / "bootstrap", *arguments],
            cwd="/",
            env={"PATH": path, "HOME": str(tmp_path)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_python_that_does_not_run_or_is_too_old_is_passed_over(tmp_path: Path, bootstrap: Bootstrap) -> None:
    program(tmp_path / "shims" / "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    program(tmp_path / "old" / "python3.13", "exit 1")  # what the version check of an old one does
    program(tmp_path / "good" / "python3.13", f'exec "{REAL}" "$@"')

    path = f"{tmp_path}/shims:{tmp_path}/old:{tmp_path}/good:{os.defpath}"
    result = bootstrap("--print-python", path=path)

    assert (result.stdout, result.stderr) == (f"{REAL}\n", "")


def test_named_python_is_taken_and_an_environment_is_seen_through(bootstrap: Bootstrap) -> None:
    result = bootstrap("--print-python", TRACKSIDE_PYTHON=sys.executable)

    assert os.path.realpath(result.stdout.strip()) == REAL


def test_named_python_that_is_unfit_is_an_error_and_not_replaced(bootstrap: Bootstrap) -> None:
    result = bootstrap("--print-python", TRACKSIDE_PYTHON="/nonexistent/python")

    assert (result.returncode, result.stdout) == (1, "")
    assert "TRACKSIDE_PYTHON=/nonexistent/python" in result.stderr


def test_unknown_argument_is_refused(bootstrap: Bootstrap) -> None:
    assert bootstrap("--frobnicate").returncode == 1
