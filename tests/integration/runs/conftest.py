"""Three backends that let runs in; at the end, each test's database is judged."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_check import assert_whole
from tests.integration.runs.stage import BACKENDS, Agents, Backend


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that needs a backend on all of them, or the module's `BACKENDS`, unless the test names its own."""
    chosen = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not chosen:
        metafunc.parametrize("backend", getattr(metafunc.module, "BACKENDS", BACKENDS), indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    match request.param:
        case "memory":
            yield Backend("memory")
        case "sqlite":
            path = tmp_path / "runs.db"
            shutil.copy(request.getfixturevalue("sqlite_with_tables"), path)
            yield from judged(Backend("sqlite", f"sqlite:///{path}"))
        case "postgres":
            yield from judged(Backend("postgres", request.getfixturevalue("postgres_with_tables")))


def judged(backend: Backend) -> Iterator[Backend]:
    """Check that nothing is wrong in the database when a test has ended."""
    yield backend
    assert backend.url is not None
    if backend.judged:
        assert_whole(backend.url, at_rest=backend.at_rest)


@pytest.fixture
def agents() -> Agents:
    return Agents()
