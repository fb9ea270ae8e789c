"""Networks that are cut while nobody is told: a server's or worker's host loses its link to a service for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import hosts
from spread_fleet import BROKER, DATABASE, SpreadFleet
from tests.torture.faults._fault import Fault
from tests.torture.systems import LEASE, OnFleet


class CutDatabase(Fault):
    name = "cut-database"
    does = "the host of a process loses its way to the database, for longer than the lease"
    needs = "a fleet, and network namespaces (root, Linux, iproute2)"
    kind = "cut"
    services: ClassVar[Sequence[str]] = (DATABASE,)

    @property
    def concerns(self) -> bool:
        return isinstance(self.system, OnFleet)

    def why_not(self) -> str | None:
        return hosts.why_not()

    async def inject(self) -> str:
        assert isinstance(self.system, OnFleet)
        fleet = self.system.spread
        assert isinstance(fleet, SpreadFleet)
        process = self.chance.choice(self.system.processes)
        self._host = fleet.host_of(process)
        for service in self.services:
            await asyncio.to_thread(self._host.cut, service)
            self.toll.cuts += 1
        return f"{process.name} from {' and '.join(self.services)}"

    async def hold(self) -> None:
        await asyncio.sleep(self.chance.uniform(0.5, 2.0) * LEASE)

    async def heal(self) -> None:
        for service in self.services:
            await asyncio.to_thread(self._host.mend, service)


class CutBroker(CutDatabase):
    name = "cut-broker"
    does = "the host of a process loses its way to NATS"
    services = (BROKER,)


class CutBoth(CutDatabase):
    name = "cut-both"
    does = "the host of a process loses its way to the database and to NATS"
    services = (DATABASE, BROKER)
