"""SIGKILL: of servers, workers, users of the library and the receiver of webhooks, at any moment and at named points."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

from crash_points import STEPS
from fleet_points import NOT_SURE, points
from tests.torture.faults._fault import Fault, revive

_POINT_SECONDS: Final = 6.0
"""Seconds after which a process that has not reached its point is killed where it is."""
_STEPS: Final = ("admit", "begin", "claim", "recall", "prepare", "announce", "call", "remember", "settle", "release")
_WORKS: Final = ("start", "end", "Admit", "RequestCancel", "Settle")


class KillServer(Fault):
    name = "kill-server"
    does = "SIGKILL of a server at any moment; it comes back on its port"
    kind = "kill"
    weight = 6

    async def inject(self) -> str:
        self._server = self.chance.choice(self.system.servers)
        await self._server.kill()
        self.toll.kills["server"] += 1
        return self._server.name

    async def heal(self) -> None:
        await revive(self._server, self.toll)


class KillWorker(Fault):
    name = "kill-worker"
    does = "SIGKILL of a worker at any moment; it comes back"
    needs = "a fleet"
    kind = "kill"
    weight = 6

    @property
    def concerns(self) -> bool:
        return bool(self.system.workers)

    async def inject(self) -> str:
        self._worker = self.chance.choice(self.system.workers)
        await self._worker.kill()
        self.toll.kills["worker"] += 1
        return self._worker.name

    async def heal(self) -> None:
        await revive(self._worker, self.toll)


class KillSeveral(Fault):
    name = "kill-several"
    does = "SIGKILL of several at once, of servers, workers and users of the library; they come back together"
    kind = "kill"
    weight = 3

    async def inject(self) -> str:
        workers, users = self.system.workers, self.people.users
        everybody = [*self.system.processes, *users]
        victims = self.chance.sample(everybody, self.chance.randint(min(2, len(everybody)), len(everybody)))
        self._processes = [process for process in self.system.processes if process in victims]
        dying = [process.kill() for process in self._processes]
        dying += [asyncio.to_thread(user.kill) for user in users if user in victims]
        await asyncio.gather(*dying)
        self.toll.kills["worker"] += sum(process in workers for process in self._processes)
        self.toll.kills["server"] += sum(process not in workers for process in self._processes)
        self.toll.kills["user"] += sum(user in victims for user in users)
        return ", ".join(victim.name for victim in victims)

    async def heal(self) -> None:
        await asyncio.gather(*(revive(process, self.toll) for process in self._processes))
        if self.people.users:
            await self.people.replace_users()


class KillAtPoint(Fault):
    """Starts its victim anew with the point in its environment, so that it dies twice: at once, and at that point."""

    name = "kill-at-point"
    does = "a server or worker kills itself at a named point: before or after a step of a run, or a write"
    kind = "kill"
    weight = 4

    async def inject(self) -> str:
        workers = self.system.workers
        self._victim = self.chance.choice(workers or self.system.servers)
        number = self.chance.randint(1, 12)
        if workers:
            moment, step = self.chance.choice(
                [(moment, step) for moment, step in points("nats") if step not in NOT_SURE]
            )
            self._variable, point = "FLEET_POINT", f"{moment}|{step}|{number}"
        else:
            moments = [(moment, step) for step in _STEPS for moment in ("before", "after")]
            moments += [(moment, work) for work in _WORKS for moment in STEPS]
            moment, step = self.chance.choice(moments)
            self._variable, point = "SERVED_DIES", f"{moment} {step} {number}"
        self._name = f"{moment} {step}"
        await self._victim.kill()
        self.toll.kills["worker" if workers else "server"] += 1
        await revive(self._victim, self.toll, **{self._variable: point})
        self._until = time.monotonic() + _POINT_SECONDS
        return f"{self._victim.name} {self._name}"

    async def hold(self) -> None:
        while self._victim.is_up and time.monotonic() < self._until:
            await asyncio.sleep(0.05)

    async def heal(self) -> None:
        if self._victim.is_up:
            await self._victim.kill()
            self.toll.kills["worker" if self.system.workers else "server"] += 1
        else:
            code = await asyncio.to_thread(self._victim.process.wait)
            if code != -signal.SIGKILL:
                self.toll.wrong.append(f"{self._victim.name} was to die at {self._name}, and ended with {code}")
            self.toll.kills[f"at {self._name}"] += 1
        await revive(self._victim, self.toll, **{self._variable: None})


class KillUser(Fault):
    name = "kill-user"
    does = "SIGKILL of a process that uses the library on the same database; another takes its place"
    kind = "kill"
    weight = 3

    @property
    def concerns(self) -> bool:
        return bool(self.people.users)

    async def inject(self) -> str:
        user = self.chance.choice(self.people.users)
        await asyncio.to_thread(user.kill)
        self.toll.kills["user"] += 1
        return user.name

    async def heal(self) -> None:
        await self.people.replace_users()


class KillReceiver(Fault):
    name = "kill-receiver"
    does = "SIGKILL of the receiver of webhooks; it comes back on its port"
    kind = "kill"
    weight = 1

    async def inject(self) -> str:
        await asyncio.to_thread(self.people.receiver.kill)
        self.toll.kills["receiver"] += 1
        return "receiver"

    async def heal(self) -> None:
        await asyncio.to_thread(self.people.receiver.start)
