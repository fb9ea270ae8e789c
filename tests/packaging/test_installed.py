"""The wheel works without extras in an empty environment; each extra does its job, and a missing one is named."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from distribution import PROJECT, FreshEnvironment, clean_environment
from extras import FUNCTION, NOWHERE, PROOFS, Proof, run_proof
from first_steps import take_them

IN_CI = ("langgraph", "webhook")
"""The extras that the tests always try, each alone."""
MISSED_IN_CI = (*IN_CI, "postgres")
"""The extras whose absence the tests always try."""
pytestmark = pytest.mark.timeout(1_800)  # new packages are compiled first


def test_without_extras_agents_are_run_served_and_looked_after(bare: FreshEnvironment, tmp_path: Path) -> None:
    take_them(bare, tmp_path)


def test_without_extras_help_and_the_harness_alone_work(bare: FreshEnvironment) -> None:
    done = bare.run(bare.trackside, "--help")
    assert done.returncode == 0
    assert "serve" in done.stdout
    imported = bare.run(bare.python, "-W", "error", "-c", "import trackside, trackside.testing")
    assert (imported.returncode, imported.stderr) == (0, "")


def test_every_extra_has_a_proof() -> None:
    assert {proof.extra for proof in PROOFS} | {"fleet"} == set(PROJECT["optional-dependencies"])


def each_extra(in_ci: Sequence[str]) -> list[ParameterSet]:
    """All proofs; those of extras not in `in_ci` are marked long."""
    long = pytest.mark.long
    return [pytest.param(proof, id=proof.extra, marks=() if proof.extra in in_ci else long) for proof in PROOFS]


@pytest.mark.parametrize("proof", each_extra(MISSED_IN_CI))
def test_an_extra_that_is_missing_is_a_sentence_that_names_it(
    proof: Proof, bare: FreshEnvironment, tmp_path: Path
) -> None:
    code, said = run_proof(proof, bare, tmp_path, NOWHERE)
    # If an agent's own file imports what is missing, the traceback shows its author where.
    assert all(Path(frame).is_relative_to(tmp_path) for frame in re.findall(r'  File "([^"]+)"', said)), said
    if proof.missing is None:
        assert proof.shows in said
    else:
        assert code != 0, said
        assert f"pip install 'trackside[{proof.missing}]'" in " ".join(said.split())


@pytest.mark.parametrize("proof", each_extra(IN_CI))
def test_an_extra_alone_does_its_thing(
    proof: Proof, distributions: tuple[Path, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = FreshEnvironment(tmp_path)
    environment.install(f"trackside[{proof.extra}] @ {distributions[1].as_uri()}")
    database = request.getfixturevalue("postgres_url") if "postgres" in proof.extra else NOWHERE
    _, said = run_proof(proof, environment, tmp_path, database)
    assert proof.shows in said
    assert "Traceback" not in said


@pytest.fixture
def fleet(distributions: tuple[Path, Path], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A fleet on this machine, from a wheel with this extra alone."""
    environment = FreshEnvironment(tmp_path)
    environment.install(f"trackside[fleet] @ {distributions[1].as_uri()}")
    (tmp_path / "function.py").write_text(FUNCTION, "utf-8")
    process = subprocess.Popen(
        [
            environment.trackside,
            "fleet",
            "up",
            "function.py:agent",
            "-n",
            "1",
            "--servers",
            "1",
            "--json",
        ],
        cwd=tmp_path,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.long
def test_the_extra_for_fleets_alone_starts_one(fleet: subprocess.Popen[str]) -> None:
    assert fleet.stdout is not None
    said = ""
    while '"urls"' not in said:
        line = fleet.stdout.readline()
        assert line, said
        said += line
    fleet.send_signal(signal.SIGTERM)
    rest, _ = fleet.communicate(timeout=120)
    assert fleet.returncode == 0, said + rest
