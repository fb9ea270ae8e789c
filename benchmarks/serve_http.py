"""Runs over HTTP: how soon and how many, through LangGraph's own client, beside the empty server and others' servers."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from _report import Budget, Options, Report, figure, options_of, publish, table, times
from _rounds import Contender, Cost, Effort, Race, Spread
from _servers import AEGRA, EMPTY, FUNCTION, GRAPH, LANGGRAPH, Fleet, Server, fleet
from langgraph_sdk import get_client

EFFORT = Effort(rounds=5, seconds=1.5)
ALONE = "wait, one at a time"
WAITS, JOINS, STREAMS = "wait, 32 at once", "create + join, 32 at once", "create + stream, 32 at once"
LIGHT_32, LIGHT_256 = "wait, light client, 32 at once", "wait, light client, 256 at once"
MAKESPAN = "32 runs of one second"
_FIRST_LOOK = 30.0  # seconds that the first piece of work may take: a server that takes longer is left out
_MOST_SECONDS = 15.0  # that a piece of work may take
_LIGHT = Path(__file__).parent / "_light_client.py"

type Do = Callable[[Server, Any], Awaitable[None]]


async def wait(server: Server, client: Any) -> None:
    await client.runs.wait(None, server.assistant, input={})


async def create_and_join(server: Server, client: Any) -> None:
    thread = str(uuid4())
    run = await client.runs.create(thread, server.assistant, input={}, if_not_exists="create")
    await client.runs.join(run["thread_id"], run["run_id"])


async def create_and_stream(server: Server, client: Any) -> None:
    async for _ in client.runs.stream(str(uuid4()), server.assistant, input={}, if_not_exists="create"):
        pass


async def wait_a_second(server: Server, client: Any) -> None:
    await client.runs.wait(None, "waiting", input={"seconds": 1.0})


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of a piece of work: this many runs in this many seconds, each of them in this many milliseconds."""

    runs: int
    seconds: float
    server_cpu_ns: int
    took_ms: Sequence[float]


async def through_sdk(server: Server, do: Do, *, at_once: int, runs: int) -> Sample:
    """Do this many runs through LangGraph's client, one client for all."""
    client = get_client(url=server.url)
    left = iter(range(runs))
    took: list[float] = []

    async def work() -> None:
        for _ in left:
            begun = time.perf_counter()
            await do(server, client)
            took.append((time.perf_counter() - begun) * 1e3)

    async with client:
        cpu, begun = server.cpu_ns(), time.perf_counter()
        async with asyncio.timeout(_FIRST_LOOK + _MOST_SECONDS), asyncio.TaskGroup() as group:
            for _ in range(min(at_once, runs)):
                group.create_task(work())
        return Sample(runs, time.perf_counter() - begun, server.cpu_ns() - cpu, took)


async def by_light_client(server: Server, *, at_once: int, runs: int) -> Sample:
    """Do this many runs by a client that costs next to nothing."""
    body = json.dumps({"assistant_id": server.assistant, "input": {}})
    typed = [server.port, "/runs/wait", body, min(at_once, runs), runs]
    cpu = server.cpu_ns()
    process = await asyncio.create_subprocess_exec(
        sys.executable, _LIGHT, *map(str, typed), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_FIRST_LOOK + _MOST_SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise RuntimeError(err.decode(errors="replace").strip().splitlines()[-1])
    said = json.loads(out)
    return Sample(runs, runs / said["rate"], server.cpu_ns() - cpu, [said["p50_ms"]])


@dataclass(frozen=True, slots=True)
class Way:
    """One thing to measure about one server."""

    case: str
    server: Server

    async def measure(self, runs: int) -> Sample:
        match self.case:
            case "wait, one at a time":
                return await through_sdk(self.server, wait, at_once=1, runs=runs)
            case "create + join, 32 at once":
                return await through_sdk(self.server, create_and_join, at_once=32, runs=runs)
            case "create + stream, 32 at once":
                return await through_sdk(self.server, create_and_stream, at_once=32, runs=runs)
            case "wait, light client, 32 at once":
                return await by_light_client(self.server, at_once=32, runs=runs)
            case "wait, light client, 256 at once":
                return await by_light_client(self.server, at_once=256, runs=runs)
            case "32 runs of one second":
                return await through_sdk(self.server, wait_a_second, at_once=32, runs=32)
            case _:
                return await through_sdk(self.server, wait, at_once=32, runs=runs)


@dataclass(slots=True)
class Measured:
    """The results of each way, round by round, and what did not work."""

    samples: dict[Way, list[Sample]]
    failed: list[str]

    def race(self) -> Race:
        """The figures in the usual form: nanoseconds of the server's CPU time, and of wall clock, for one run."""
        return Race(
            {
                Contender(way.server.name, way.case): [
                    Cost(one.server_cpu_ns / one.runs, one.seconds * 1e9 / one.runs) for one in samples
                ]
                for way, samples in self.samples.items()
            }
        )

    def of(self, case: str, name: str) -> list[Sample]:
        """The samples of one way; empty if it was not measured."""
        return next((found for way, found in self.samples.items() if (way.case, way.server.name) == (case, name)), [])

    def p50(self, case: str, name: str) -> list[float]:
        """The median of each round, in milliseconds."""
        return [statistics.median(one.took_ms) for one in self.of(case, name)]


async def measured(ways: Sequence[Way], effort: Effort) -> Measured:
    """Measure all ways in interleaved rounds; a way whose first piece of work fails is left out."""
    result = Measured({}, [])
    counts: dict[Way, int] = {}
    for way in ways:
        try:
            counts[way] = await _count_for(way, effort.seconds)
        except Exception as exc:  # noqa: BLE001  # whatever it is, the others go on
            why = f"{type(exc).__name__}: {exc}".splitlines()[0]
            result.failed.append(f"{way.server.name} does not manage “{way.case}”: {why:.200}")
    samples: dict[Way, list[Sample]] = defaultdict(list)
    for number in range(effort.rounds):
        taking_part = [way for way in counts if number < 2 or not _is_slow(samples[way])]
        first = number % len(taking_part)
        for way in [*taking_part[first:], *taking_part[:first]]:
            samples[way].append(await way.measure(counts[way]))
    result.samples = dict(samples)
    return result


def _is_slow(samples: Sequence[Sample]) -> bool:
    """Whether two rounds have to suffice: more rounds of ten seconds each teach nobody more."""
    return samples[-1].seconds > _MOST_SECONDS / 2


async def _count_for(way: Way, seconds: float) -> int:
    """How many runs fill this many seconds."""
    if way.case == MAKESPAN:
        return 32
    at_once = 1 if way.case == ALONE else 256 if way.case == LIGHT_256 else 32
    runs = at_once
    while True:
        sample = await way.measure(runs)
        if sample.seconds >= seconds / 4:
            return max(at_once, round(runs * seconds / sample.seconds))
        runs *= 4


def ways_of(found: Fleet, *, quick: bool) -> list[Way]:
    servers = found.servers
    through_clients = [servers[name] for name in (EMPTY, GRAPH, LANGGRAPH, AEGRA) if name in servers]
    light = [servers[name] for name in (EMPTY, FUNCTION, GRAPH)]
    ways = [Way(case, server) for case in (ALONE, WAITS, JOINS, STREAMS) for server in through_clients]
    ways += [Way(case, server) for case in (LIGHT_32, LIGHT_256)[: 1 if quick else 2] for server in light]
    return ways + [Way(MAKESPAN, server) for server in through_clients if server.name != EMPTY and not quick]


def tables_of(result: Measured) -> list[str]:
    cases = list(dict.fromkeys(way.case for way in result.samples))
    return [_makespans(result) if case == MAKESPAN else _table(result, case) for case in cases]


def _table(result: Measured, case: str) -> str:
    race = result.race()

    def row(way: Contender) -> list[str]:
        beside = next((other for other in race.costs if (other.name, other.case) == (EMPTY, case)), None)
        part = "" if beside is None or way.name == EMPTY else times(_rate_beside(result, case, way.name))
        return [
            way.name,
            figure(race.rate(way, "wall"), digits=0 if race.rate(way, "wall").median > 20 else 1),
            figure(Spread.of(result.p50(case, way.name)), digits=2),
            figure(race.cost(way, "cpu").scaled(1e-3)),
            part,
        ]

    header = [case, "runs/s", "median, ms", "µs of the server's CPU time", "× empty server's rate"]
    return table(header, [row(way) for way in race.costs if way.case == case])


def _makespans(result: Measured) -> str:
    race = result.race()
    rows = [
        [way.name, figure(race.cost(way, "wall").scaled(32e-9), digits=2)] for way in race.costs if way.case == MAKESPAN
    ]
    return table([MAKESPAN, "seconds until all have ended"], rows)


def _rate_beside(result: Measured, case: str, name: str, other: str = EMPTY) -> float:
    """The share of the other's rate, round by round."""
    pairs = zip(result.of(case, name), result.of(case, other), strict=False)
    return statistics.median((one.runs / one.seconds) / (two.runs / two.seconds) for one, two in pairs)


def budgets_of(result: Measured) -> list[Budget]:
    budgets = [_limit("one at a time: a wait takes at most 6 ms", 6.0, statistics.median(result.p50(ALONE, GRAPH)))]
    for case, least in ((WAITS, 0.7), (JOINS, 0.6), (STREAMS, 0.6)):
        what = f"{case}: at least {least} of the empty server's rate"
        budgets.append(_least(what, least, _rate_beside(result, case, GRAPH)))
    for case in (LIGHT_32, LIGHT_256):
        for name, least in ((FUNCTION, 1_500), (GRAPH, 700)):
            if samples := result.of(case, name):
                rate = statistics.median(one.runs / one.seconds for one in samples)
                budgets.append(_least(f"{case}: {name}: at least {least:,} runs/s", least, rate))
    if samples := result.of(MAKESPAN, GRAPH):
        longest = statistics.median(one.seconds for one in samples)
        budgets.append(_limit(f"{MAKESPAN}: at most 1.1 s", 1.1, longest))
    peers = [_rate_beside(result, WAITS, GRAPH, name) for name in (LANGGRAPH, AEGRA) if result.of(WAITS, name)]
    if peers:
        budgets.append(_least(f"{WAITS}: at least 5 times the best of the others", 5.0, min(peers)))
    return budgets


def _limit(what: str, limit: float, measured: float) -> Budget:
    return Budget(what, limit, {"wall": measured}, at_most=True)


def _least(what: str, least: float, measured: float) -> Budget:
    return Budget(what, least, {"wall": measured})


def measure(options: Options) -> Report:
    names = [EMPTY, FUNCTION, GRAPH] if options.quick else [EMPTY, FUNCTION, GRAPH, LANGGRAPH, AEGRA]
    with fleet(names) as found:
        result = asyncio.run(measured(ways_of(found, quick=options.quick), options.effort))
    notes = [*found.words(), *result.failed]
    return Report(
        name="http",
        unit="nanoseconds for one run; cpu is the server's alone",
        race=result.race(),
        tables=[*tables_of(result), *(["\n".join(f"* {note}" for note in notes)] if notes else [])],
        budgets=budgets_of(result),
        ours=[FUNCTION, GRAPH],
        packages=["langgraph-sdk", "langgraph", "uvicorn", "starlette"],
        extra={
            "notes": notes,
            "median_ms": {
                f"{way.case}: {way.server.name}": result.p50(way.case, way.server.name) for way in result.samples
            },
        },
    )


def main() -> None:
    options = options_of(__doc__, EFFORT)
    publish(measure(options), options)


if __name__ == "__main__":
    main()
