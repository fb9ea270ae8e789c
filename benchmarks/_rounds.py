"""Ways of doing the same work, measured side by side in one process: interleaved rounds, two clocks, medians.

A machine drifts from minute to minute. So each round measures every contender once, in an order that rotates, and two
contenders are compared within a round before the median is taken. Process CPU time leaves out what other processes took
of the machine; wall clock time is what a user sees; on a quiet machine they agree.
"""

import asyncio
import gc
import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal

type Clock = Literal["cpu", "wall"]

type Work = Callable[[int], Awaitable[None]]
"""Does the work this many times."""


def timed_elsewhere() -> AbstractAsyncContextManager[Work]:
    """Stands in for `open` where the work was timed elsewhere, and is not to be opened and timed again."""
    raise AssertionError("it was timed elsewhere")


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of doing the work in one case, such as `CompositeObserver` with 4 observers.

    `open` sets it up on a fresh event loop, and what it yields is timed; setting up and closing are not. Without `open`
    others have timed it, say request by request, and its costs make a `Race`. `server_cpu_ns` gives the CPU time of a
    server that works for it, which counts as its own.
    """

    name: str
    case: str
    open: Callable[[], AbstractAsyncContextManager[Work]] = timed_elsewhere
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    server_cpu_ns: Callable[[], int] = int


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to measure: this many rounds, of this many seconds for each contender."""

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds that it took to do the work once."""

    cpu: float
    wall: float

    def by(self, clock: Clock) -> float:
        """The cost by one of the two clocks."""
        return self.cpu if clock == "cpu" else self.wall


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, between their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The spread of at least two values."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def scaled(self, factor: float) -> "Spread":
        """The same in another unit."""
        return Spread(self.low * factor, self.median * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Race:
    """What every contender cost in every round."""

    costs: Mapping[Contender, Sequence[Cost]] = field(default_factory=dict)

    def contender(self, name: str, case: str) -> Contender:
        """The contender of this name in this case."""
        return next(c for c in self.costs if (c.name, c.case) == (name, case))

    def cost(self, contender: Contender, clock: Clock) -> Spread:
        """Nanoseconds that it took to do the work once."""
        return Spread.of(cost.by(clock) for cost in self.costs[contender])

    def rate(self, contender: Contender, clock: Clock) -> Spread:
        """How many times a second the work was done."""
        return Spread.of(1e9 / cost.by(clock) for cost in self.costs[contender])

    def ratio(self, contender: Contender, beside: Contender, clock: Clock) -> Spread:
        """How many times as long one contender took as another, round by round."""
        return Spread.of(ours / theirs for ours, theirs in self._pairs(contender, beside, clock))

    def difference(self, contender: Contender, beside: Contender, clock: Clock) -> Spread:
        """How many nanoseconds longer one contender took than another, round by round."""
        return Spread.of(ours - theirs for ours, theirs in self._pairs(contender, beside, clock))

    def _pairs(self, contender: Contender, beside: Contender, clock: Clock) -> Iterator[tuple[float, float]]:
        for ours, theirs in zip(self.costs[contender], self.costs[beside], strict=True):
            yield ours.by(clock), theirs.by(clock)


def race(contenders: Sequence[Contender], effort: Effort) -> Race:
    """Measure all contenders, in interleaved rounds."""
    counts = {contender: _count_for(contender, effort.seconds) for contender in contenders}
    costs: dict[Contender, list[Cost]] = {contender: [] for contender in contenders}
    for number in range(effort.rounds):
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            costs[contender].append(_sample(contender, counts[contender]))
    return Race(costs)


def _count_for(contender: Contender, seconds: float) -> int:
    """How often to do the work so that it fills this many seconds.

    What seems to be enough is timed twice, and the shorter time counts: if the disk or the machine stands still for a
    moment, a few pieces of work take that long, too, and rounds of so few say nothing of many at once.
    """
    count, enough = 1, seconds / 4
    while True:
        taken = _sample(contender, count).wall * count / 1e9
        if taken >= enough:
            taken = min(taken, _sample(contender, count).wall * count / 1e9)
        if taken >= enough:
            return max(1, round(count * seconds / taken))
        count *= 4


def _sample(contender: Contender, count: int) -> Cost:
    return asyncio.run(_timed(contender, count), loop_factory=contender.loop_factory)


async def _timed(contender: Contender, count: int) -> Cost:
    async with contender.open() as work:
        await work(max(1, count // 10))  # to fill caches, and specialise what specialises itself
        gc.collect()  # so that nobody pays for the garbage of the contender before
        cpu, wall = contender.server_cpu_ns() + _cpu_ns(), time.perf_counter_ns()
        await work(count)
        wall, cpu = time.perf_counter_ns() - wall, _cpu_ns() + contender.server_cpu_ns() - cpu
    return Cost(cpu / count, wall / count)


def _cpu_ns() -> int:
    """CPU time of this process and of the child processes that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time_ns() + round((children.ru_utime + children.ru_stime) * 1e9)
