"""Which of the runs that may start execute now, and which wait for a place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from itertools import count


class _Line[R: Hashable]:
    """The runs that share a limit: how many more may execute, and those that wait, with the numbers they drew."""

    __slots__ = ("free", "waiting")

    def __init__(self, free: int) -> None:
        self.free = free
        self.waiting: OrderedDict[R, int] = OrderedDict()

    def number_of_first(self) -> int:
        return next(iter(self.waiting.values()))


class Places[R: Hashable]:
    """A number of places, of which the runs of some agents may take only so many.

    Runs get places in the order in which they came, except that a run whose agent has no more places holds nobody up.
    A thread has one run here at a time, so its next one comes in behind those of other threads, however many it has.

    The cost of a step grows with the number of agents that have limits, not with the number of runs that wait.

    Args:
        total: how many places there are.
        of_agents: how many of them the runs of an agent may have, by the agent's name.
    """

    def __init__(self, total: int, of_agents: Mapping[str, int]) -> None:
        self.total = total
        self._free = total
        self._unlimited = _Line[R](total)
        self._limited = {agent: _Line[R](places) for agent, places in of_agents.items()}
        self.waiting = 0
        """How many runs wait for a place."""
        self._lines = (self._unlimited, *self._limited.values())
        self._numbers = count()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self.total - self._free

    def take(self, run: R, agent: str) -> bool:
        """Whether the run has a place now; if not, it waits for one."""
        line = self._limited.get(agent, self._unlimited)
        if self._free and line.free:
            self._free -= 1
            line.free -= 1
            return True
        line.waiting[run] = next(self._numbers)
        self.waiting += 1
        return False

    def leave(self, run: R, agent: str) -> None:
        """Stop waiting for a place, if the run waits for one."""
        line = self._limited.get(agent, self._unlimited)
        if line.waiting.pop(run, None) is not None:
            self.waiting -= 1

    def give_back(self, agent: str) -> R | None:
        """Give back the place of a run of this agent; returns the run that has it now, if any had to wait for it."""
        self._free += 1
        self._limited.get(agent, self._unlimited).free += 1
        if not self.waiting:
            return None
        # Until now no run that waits could have had a place, so one more place makes room for one of them.
        may = [line for line in self._lines if line.waiting and line.free]
        if not may:
            return None
        line = min(may, key=_Line.number_of_first)
        run, _ = line.waiting.popitem(last=False)
        self.waiting -= 1
        self._free -= 1
        line.free -= 1
        return run
