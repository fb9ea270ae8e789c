"""What a system stands on is gone for a while: its database, as by a power cut; its broker, and perhaps what it kept."""

from __future__ import annotations

import asyncio
import shutil

from tests.torture.faults._fault import Fault


class DatabaseStop(Fault):
    name = "database-stop"
    does = "`pg_ctl stop -m immediate`: PostgreSQL is gone as by a power cut, and comes back"
    needs = "PostgreSQL"
    kind = "stop"
    weight = 3

    @property
    def concerns(self) -> bool:
        return self.system.postgres is not None

    async def inject(self) -> str:
        assert self.system.postgres is not None
        await self.people.times.acquire()
        await asyncio.to_thread(self.system.postgres.stop, "immediate")
        self.toll.stops += 1
        return "postgres"

    async def heal(self) -> None:
        assert self.system.postgres is not None
        await asyncio.to_thread(self.system.postgres.start)
        self.people.times.release()


class BrokerRestart(Fault):
    name = "broker-kill"
    does = "SIGKILL of NATS; it comes back with what it had"
    needs = "a fleet"
    kind = "kill"
    weight = 2

    @property
    def concerns(self) -> bool:
        return self.system.nats is not None

    async def inject(self) -> str:
        assert self.system.nats is not None
        await asyncio.to_thread(self.system.nats.stop, "KILL")
        self.toll.kills["engine"] += 1
        return "nats"

    async def heal(self) -> None:
        assert self.system.nats is not None
        await asyncio.to_thread(self.system.nats.start)


class BrokerLost(BrokerRestart):
    name = "broker-empty"
    does = "SIGKILL of NATS; it comes back with an empty disk"
    weight = 1

    async def heal(self) -> None:
        assert self.system.nats is not None
        await asyncio.to_thread(shutil.rmtree, self.system.nats.data)
        await asyncio.to_thread(self.system.nats.data.mkdir)
        await super().heal()
