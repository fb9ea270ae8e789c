"""Three places in which runs are let in; what is in a database in the end is judged."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_check import assert_whole
from postgres_server import RunningServer
from tests.contract.conftest import EmptiedDatabase, make_tables
from tests.integration.runs.stage import BACKENDS, Agents, Backend


# Made once; copied for each test, or emptied after it.
@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "runs.db"
    make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_database(postgres_server: RunningServer, postgres_names: Iterator[str]) -> Iterator[EmptiedDatabase]:
    name = next(postgres_names)
    make_tables(postgres_server.create_database(name))
    yield EmptiedDatabase(postgres_server, name)
    postgres_server.drop_database(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a backend on each, unless the test says on which."""
    chosen = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not chosen:
        metafunc.parametrize("backend", BACKENDS, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    match request.param:
        case "memory":
            yield Backend("memory")
        case "sqlite":
            path = tmp_path / "runs.db"
            shutil.copy(request.getfixturevalue("sqlite_template"), path)
            yield from judged(Backend("sqlite", f"sqlite:///{path}"))
        case "postgres":
            database: EmptiedDatabase = request.getfixturevalue("postgres_database")
            yield from judged(Backend("postgres", database.url))
            database.empty()


def judged(backend: Backend) -> Iterator[Backend]:
    """See that nothing is wrong in the database when a test has ended."""
    yield backend
    assert backend.url is not None
    if backend.judged:
        assert_whole(backend.url, at_rest=backend.at_rest)


@pytest.fixture
def agents() -> Agents:
    return Agents()
