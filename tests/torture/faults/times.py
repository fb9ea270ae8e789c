"""Time goes wrong: clocks jump, a disk is slow, a process stands still for longer than its lease."""

from __future__ import annotations

import asyncio

import poor_machine
from poor_machine import Machine
from tests.torture.faults._fault import Fault
from tests.torture.systems import LEASE

_DAY = 86_400


class _OfTheMachine(Fault):
    """What the library that processes load first tells them: another time, a slower disk."""

    needs = "Linux and a C compiler (a library that processes load first)"
    kind = "time"

    def why_not(self) -> str | None:
        return poor_machine.why_not()

    @property
    def machine(self) -> Machine:
        assert self.system.machine is not None
        return self.system.machine


class ClockJump(_OfTheMachine):
    name = "clock-jump"
    does = "the wall clock of all servers and workers jumps, by a minute or a day, forth or back, and back again (I8)"

    async def inject(self) -> str:
        seconds = self.chance.choice([-_DAY, -60, 60, _DAY])
        await asyncio.to_thread(self.machine.clock_off_by, seconds)
        return f"by {seconds} s"

    async def heal(self) -> None:
        await asyncio.to_thread(self.machine.clock_off_by, 0)


class SlowDisk(_OfTheMachine):
    name = "slow-disk"
    does = "each fsync of servers and workers takes a tenth to half a second longer"

    async def inject(self) -> str:
        seconds = self.chance.uniform(0.1, 0.5)
        await asyncio.to_thread(self.machine.sync_takes, seconds)
        return f"{seconds:.1f} s"

    async def hold(self) -> None:
        await asyncio.sleep(self.chance.uniform(1.0, 3.0))

    async def heal(self) -> None:
        await asyncio.to_thread(self.machine.sync_takes, 0.0)


class Standstill(Fault):
    name = "standstill"
    does = "SIGSTOP of a server or worker past its lease; then it goes on and thinks that no time has gone by"
    kind = "time"

    async def inject(self) -> str:
        self._process = self.chance.choice(self.system.processes)
        self._process.stop()
        return self._process.name

    async def hold(self) -> None:
        await asyncio.sleep(self.chance.uniform(1.2, 2.0) * LEASE)

    async def heal(self) -> None:
        self._process.resume()
