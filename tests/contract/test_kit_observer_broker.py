"""Observers that publish to real brokers keep the observer contract."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest
from brokers import BrokerStage, NatsStage, RedisStage
from nats_server import NatsServer
from valkey_server import ValkeyServer

from trackside.app.observers.broker import BrokerObserver
from trackside.harness.ids import new_id
from trackside.testing.contracts import ObserverContract


@pytest.fixture(scope="module")
def brokers() -> Iterator[dict[type[BrokerStage], NatsServer | ValkeyServer]]:
    with NatsServer() as nats, ValkeyServer() as valkey:
        yield {NatsStage: nats, RedisStage: valkey}


class TestBrokerObserverWithNats(ObserverContract):
    complete = True
    idempotent = True
    stage_kind: ClassVar[type[BrokerStage]] = NatsStage

    @pytest.fixture
    def observer(self, brokers: dict[type[BrokerStage], NatsServer | ValkeyServer]) -> object:
        return self._publishing(self.stage_kind(brokers[self.stage_kind], f"kit-{new_id()}"))

    @asynccontextmanager
    async def _publishing(self, stage: BrokerStage) -> AsyncGenerator[BrokerObserver]:
        self.stage = stage
        yield stage.observer(topic=f"{stage.name}.all")  # one topic for all, so that its order is that of the effects
        await stage.aclose()

    async def effects(self, observer: BrokerObserver) -> list[str]:
        return [message.event_id for message in await self.stage.kept()]


class TestBrokerObserverWithRedis(TestBrokerObserverWithNats):
    stage_kind = RedisStage
