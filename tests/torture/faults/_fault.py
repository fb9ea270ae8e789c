"""The interface of a fault, and how a process comes back from one."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from fleet import FleetProcess
from tests.torture.people import People
from tests.torture.systems import System

type Kind = Literal["kill", "stop", "cut", "shortage", "time"]

START_SECONDS: Final = 120.0
_PAUSE: Final = 0.2  # seconds before the next try


@dataclass(slots=True)
class Toll:
    """What was done in all, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    """SIGKILLs that somebody died of, by the victim: server, worker, engine, user, receiver, or a point."""
    stops: int = 0
    """Immediate stops of the database."""
    cuts: int = 0
    """Networks that were cut."""
    deaths: list[str] = field(default_factory=list)
    """Processes that ended although nobody had killed them, and may do so: their memory was limited."""
    wrong: list[str] = field(default_factory=list)
    """What was seen of processes and must not be."""


class Fault:
    """Something that can happen to a system.

    Args:
        system: what it happens to.
        people: those who use it.
        chance: decides whom it hits, and for how long.
        toll: counts its victims.
    """

    name: ClassVar[str]
    does: ClassVar[str]
    """What it does, in half a sentence."""
    needs: ClassVar[str] = "nothing"
    kind: ClassVar[Kind]
    weight: ClassVar[int] = 1
    """How often it happens, relative to others."""

    def __init__(self, system: System, people: People, chance: random.Random, toll: Toll) -> None:
        self.system = system
        self.people = people
        self.chance = chance
        self.toll = toll

    @property
    def concerns(self) -> bool:
        """Whether the system has what this fault hits."""
        return True

    def why_not(self) -> str | None:
        """What is missing here to do it; None if it can be done."""
        return None

    async def inject(self) -> str:
        """Let it happen; returns what it is, with the name of its victim."""
        raise NotImplementedError

    async def heal(self) -> None:
        """End it; whoever died is started again."""

    async def hold(self) -> None:
        """Wait as long as it lasts."""
        await asyncio.sleep(self.chance.uniform(0.2, 1.5))


async def revive(process: FleetProcess, toll: Toll, **variables: str | None) -> None:
    """Start a process that is dead; it may die at a point as it starts, or find that its database is not there yet.

    Args:
        process: the process.
        toll: notes it if the process does not start.
        variables: environment variables of its next life.
    """
    for name, value in variables.items():
        process.process.change_environment(name, value)
    refusals: list[Any] = []
    try:
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    await process.start()
                except RuntimeError as exc:
                    refusals.append(str(exc)[-300:])
                    await asyncio.sleep(_PAUSE)
                else:
                    return
    except TimeoutError:
        toll.wrong.append(f"{process.name} does not start, for {START_SECONDS:g} s: {refusals[-1:]}")
