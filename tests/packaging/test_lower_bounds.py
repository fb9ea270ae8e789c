"""The oldest versions of all dependencies that `pyproject.toml` allows are enough."""

from __future__ import annotations

from pathlib import Path

import pytest
from distribution import ROOT, FreshEnvironment, compiled
from first_steps import take_them

PARTS = (
    "tests/unit",
    "tests/contract",
    "tests/integration/metrics",
    "tests/integration/webhook",
    "tests/integration/langgraph",
    "tests/integration/storage",
    "tests/acceptance/test_cli_run.py",
    "tests/acceptance/test_serve_sdk.py",
)
HOUR = 3_600  # seconds


@pytest.mark.long
def test_with_the_oldest_dependencies_and_no_extras_it_works(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    oldest = compiled(tmp_path / "oldest.txt", "pyproject.toml", "--resolution", "lowest-direct")
    environment = FreshEnvironment(tmp_path)
    environment.install("--requirement", oldest, options=())
    environment.install(distributions[1], options=("--no-deps",))
    take_them(environment, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(2 * HOUR)
def test_with_the_oldest_dependencies_of_all_extras_the_tests_pass(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    oldest = compiled(tmp_path / "oldest.txt", "pyproject.toml", "--all-extras", "--resolution", "lowest-direct")
    tools = compiled(tmp_path / "tools.txt", "--group", "dev", "--constraint", str(oldest))
    environment = FreshEnvironment(tmp_path)
    environment.install("--requirement", oldest, "--requirement", tools, options=())
    environment.install(distributions[1], options=("--no-deps",))
    done = environment.run(
        environment.python,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "worksteal",
        *PARTS,
        folder=ROOT,
        seconds=2 * HOUR,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
