"""Real brokers, and observers that publish to them."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from itertools import count

import pytest
from brokers import BrokerStage, NatsStage, RedisStage
from nats_server import NatsServer
from valkey_server import ValkeyServer

_STAGES = {"nats": (NatsStage, NatsServer), "redis": (RedisStage, ValkeyServer)}


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, NatsServer | ValkeyServer]]:
    """One server of each kind, for the tests that neither stop nor change it."""
    with NatsServer() as nats, ValkeyServer() as valkey:
        yield {"nats": nats, "redis": valkey}


@pytest.fixture(scope="session")
def names() -> Iterator[str]:
    """Names of places that no other test uses."""
    return (f"place-{number}" for number in count(1))


@pytest.fixture(params=["nats", "redis"])
async def stage(
    request: pytest.FixtureRequest, servers: dict[str, NatsServer | ValkeyServer], names: Iterator[str]
) -> AsyncIterator[BrokerStage]:
    """A place on a server that other tests use too."""
    kind, _ = _STAGES[request.param]
    made = kind(servers[request.param], next(names))
    yield made
    await made.aclose()


@pytest.fixture(params=["nats", "redis"])
async def own_stage(request: pytest.FixtureRequest) -> AsyncIterator[BrokerStage]:
    """A server that the test may stop."""
    kind, server_kind = _STAGES[request.param]
    with server_kind() as server:
        made = kind(server, "own")
        yield made
        await made.aclose()


@pytest.fixture
async def make_server() -> AsyncIterator[Callable[..., BrokerStage]]:
    """Starts servers with settings of their own, given the kind of stage."""
    made: list[BrokerStage] = []
    with ExitStack() as servers:

        def make(kind: type[BrokerStage], *settings: str, **options: str) -> BrokerStage:
            _, server_kind = _STAGES[kind.scheme]
            made.append(kind(servers.enter_context(server_kind(*settings, **options)), "own"))
            return made[-1]

        yield make
        for stage in made:
            await stage.aclose()
