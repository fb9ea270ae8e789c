"""The wheel in an empty environment works without extras; each extra does its thing, and one that is missing is named."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from distribution import PROJECT, FreshEnvironment, clean_environment
from extras import FUNCTION, PROOFS, Proof, run_proof
from first_steps import take_them

IN_CI = ("langgraph", "webhook")
"""The extras that are always tried, each alone."""
NOWHERE = "postgresql://nobody@127.0.0.1:9/none"


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


def test_an_extra_that_is_missing_is_a_sentence_that_names_it(bare: FreshEnvironment, tmp_path: Path) -> None:
    def without(proof: Proof) -> tuple[Proof, int, str]:
        folder = tmp_path / proof.extra
        folder.mkdir()
        return proof, *run_proof(proof, bare, folder, NOWHERE)

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(without, PROOFS))
    for proof, code, said in done:
        # Where an agent's own file imports what is missing, its author sees where that is.
        assert all(Path(frame).is_relative_to(tmp_path) for frame in re.findall(r'  File "([^"]+)"', said)), said
        if proof.missing is None:
            assert proof.shows in said, f"{proof.extra}: {said}"
        else:
            assert code != 0, f"{proof.extra}: {said}"
            assert f"pip install 'trackside[{proof.missing}]'" in " ".join(said.split()), f"{proof.extra}: {said}"


@pytest.mark.parametrize(
    "proof",
    [pytest.param(proof, id=proof.extra, marks=() if proof.extra in IN_CI else pytest.mark.long) for proof in PROOFS],
)
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
    """A fleet on this machine, by a wheel with this extra alone."""
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
            "--port",
            "0",
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
    while '"url"' not in said:
        line = fleet.stdout.readline()
        assert line, said
        said += line
    fleet.send_signal(signal.SIGTERM)
    rest, _ = fleet.communicate(timeout=120)
    assert fleet.returncode == 0, said + rest
