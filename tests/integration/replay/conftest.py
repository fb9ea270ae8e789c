"""Play the recorded conversations once with each framework's agents; the tests look at what came of them."""

import asyncio
from collections.abc import Iterator

import pytest
from postgres_server import RunningServer
from tests.integration.replay.playing import FRAMEWORKS, Played, play
from tests.integration.replay.recorded import Trajectory, recorded

DELEGATE = "specialist"


@pytest.fixture(scope="module", params=[*FRAMEWORKS])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def played(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """All conversations, in SQLite."""
    url = f"sqlite:///{tmp_path_factory.mktemp('replay') / 'runs.db'}"
    return asyncio.run(play(recorded(), framework, url))


@pytest.fixture(scope="module")
def played_by_delegate(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The conversations without a human, played by an agent that another agent calls."""
    url = f"sqlite:///{tmp_path_factory.mktemp('replay') / 'delegated.db'}"
    solo = [one for one in recorded() if len(one.turns) == 1]
    return asyncio.run(play(solo, framework, url, delegating_to=DELEGATE))


@pytest.fixture(scope="module")
def played_on_postgres(
    framework: str, postgres_server: RunningServer, postgres_names: Iterator[str]
) -> Iterator[Played]:
    """One conversation of each group, in PostgreSQL."""
    one_of_each: dict[str, Trajectory] = {}
    for one in recorded():
        one_of_each.setdefault(one.group, one)
    name = next(postgres_names)
    yield asyncio.run(play([*one_of_each.values()], framework, postgres_server.create_database(name)))
    postgres_server.drop_database(name)
