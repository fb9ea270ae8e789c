"""Streams of server-sent events: the first event, and 1,000 who follow a run, beside Starlette's StreamingResponse alone."""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from _report import Bars, Budget, Options, Report, figure, options_of, publish, table
from _rounds import Contender, Cost, Effort, Race, Spread
from _servers import AEGRA, EMPTY, FUNCTION, GRAPH, LANGGRAPH, Fleet, Server, fleet, trackside
from langgraph_sdk import get_client

EFFORT = Effort(rounds=5, seconds=1.0)
FIRST = "the first event of a run"
FOLLOWERS, PARTS, PAUSE = 1_000, 6, 0.4
FOLLOWED = f"{FOLLOWERS:,} followers of one run"
TALKING = "trackside"
PERCENTILES = ("p50", "p99", "last")
_FOLLOW = Path(__file__).parent / "_followers.py"
FIRST_LIMIT_MS, LATE_LIMIT_MS = 4.0, 60.0
_MOST_SECONDS = 60.0

type Talk = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Followed:
    """How long parts took to reach everybody, in milliseconds, and what each part cost the server for each reader."""

    p50: float
    p99: float
    last: float
    cpu_ns: float


async def first_events(server: Server, runs: int) -> tuple[list[float], int]:
    """How many milliseconds a client waited for the first event of each of this many runs; the server's CPU time."""
    took: list[float] = []
    cpu = server.cpu_ns()
    async with asyncio.timeout(_MOST_SECONDS), get_client(url=server.url) as client:
        for _ in range(runs):
            begun = time.perf_counter()
            is_first = True
            async for _ in client.runs.stream(str(uuid4()), server.assistant, input={}, if_not_exists="create"):
                if is_first:
                    took.append((time.perf_counter() - begun) * 1e3)
                is_first = False
    return took, server.cpu_ns() - cpu


@asynccontextmanager
async def _fan_out(server: Server, parts: int) -> AsyncGenerator[tuple[str, Talk]]:
    """The path of a stream of the empty server, and how to make it send something."""
    async with httpx.AsyncClient(base_url=server.url) as client:

        async def talk() -> None:
            for _ in range(parts):
                await asyncio.sleep(PAUSE)
                await client.post("/fan-out")

        yield "/fan-out", talk


@asynccontextmanager
async def _run(server: Server, parts: int) -> AsyncGenerator[tuple[str, Talk]]:
    """The path of the stream of a run on our server, and how to make it send something."""
    with tempfile.TemporaryDirectory() as folder:
        begin = Path(folder) / "begin"
        async with get_client(url=server.url) as client:
            asked: dict[str, Any] = {"begin": str(begin), "parts": parts, "pause": PAUSE}
            thread = str(uuid4())
            run = await client.runs.create(thread, "talking", input=asked, stream_mode="custom", if_not_exists="create")

            async def talk() -> None:
                await asyncio.to_thread(begin.touch)
                await client.runs.join(thread, run["run_id"])

            yield f"/threads/{thread}/runs/{run['run_id']}/stream", talk


async def followed(server: Server, followers: int, parts: int) -> Followed:
    stream = _fan_out if server.name == EMPTY else _run
    async with asyncio.timeout(_MOST_SECONDS), stream(server, parts) as (path, talk):
        process = await asyncio.create_subprocess_exec(
            sys.executable, _FOLLOW, str(server.port), path, str(followers), str(parts), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            if await process.stdout.readline() != b"connected\n":
                raise RuntimeError("not everybody could connect")
            cpu = server.cpu_ns()
            await talk()
            says = json.loads(await process.stdout.readline())
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    return Followed(**says, cpu_ns=(server.cpu_ns() - cpu) / (followers * parts))


@dataclass(slots=True)
class Measured:
    """What was measured, by server, round by round."""

    first: dict[str, list[tuple[list[float], int]]]
    followed: dict[str, list[Followed]]
    failed: list[str]

    def p50(self, name: str) -> list[float]:
        """The median wait for the first event in each round."""
        return [statistics.median(took) for took, _ in self.first[name]]

    def followed_by(self, name: str, what: str) -> Spread:
        """The milliseconds until this many of the followers have a part."""
        return Spread.of(getattr(one, what) for one in self.followed[name])

    def race(self) -> Race:
        """The figures in the usual form: nanoseconds until the first event, or until half the followers have a part."""
        first = {
            Contender(name, FIRST): [Cost(cpu / len(took), statistics.median(took) * 1e6) for took, cpu in rounds]
            for name, rounds in self.first.items()
        }
        followed = {
            Contender(name, FOLLOWED): [Cost(one.cpu_ns, one.p50 * 1e6) for one in rounds]
            for name, rounds in self.followed.items()
        }
        return Race({**first, **followed})


async def measured(found: Fleet, talking: Server, options: Options) -> Measured:
    result = Measured({}, {}, [])
    runs = 4 if options.quick else 60
    servers = [one for one in found.servers.values() if one.name != FUNCTION]
    followers, parts = (20, 2) if options.quick else (FOLLOWERS, PARTS)
    for number in range(options.effort.rounds):
        for server in [*servers[number % len(servers) :], *servers[: number % len(servers)]]:
            await _first_of(server, runs, result)
        for server in _turned([found.servers[EMPTY], talking], number):
            name = TALKING if server is talking else EMPTY
            result.followed.setdefault(name, []).append(await followed(server, followers, parts))
    return result


def _turned(servers: Sequence[Server], number: int) -> list[Server]:
    turn = number % len(servers)
    return [*servers[turn:], *servers[:turn]]


async def _first_of(server: Server, runs: int, result: Measured) -> None:
    if server.name in {LANGGRAPH, AEGRA}:
        runs = min(runs, 10)
    try:
        result.first.setdefault(server.name, []).append(await first_events(server, runs))
    except Exception as exc:
        if server.name not in {LANGGRAPH, AEGRA}:
            raise
        result.first.pop(server.name)
        result.failed.append(f"{server.name} does not stream: {type(exc).__name__}: {exc!s:.200}")


def tables_of(result: Measured) -> list[str]:
    race = result.race()
    first = [[name, figure(Spread.of(result.p50(name)), digits=2), _cpu(race, name, FIRST)] for name in result.first]
    rows = [
        [
            name,
            *(figure(result.followed_by(name, what), digits=1) for what in PERCENTILES),
            _cpu(race, name, FOLLOWED),
        ]
        for name in result.followed
    ]
    header = [FOLLOWED, "median, ms", "99th percentile, ms", "the last, ms", "µs of CPU time for each reader"]
    return [
        table([FIRST, "median, ms", "µs of the server's CPU time for the run"], first),
        table(header, rows),
    ]


def plots_of(result: Measured) -> list[Bars]:
    first = {name: astuple(Spread.of(result.p50(name))) for name in result.first}
    late = {name: astuple(result.followed_by(name, "p99")) for name in result.followed}
    return [
        Bars(FIRST, "ms", first, FIRST_LIMIT_MS),
        Bars(f"{FOLLOWED}, until 99 % have a part", "ms", late, LATE_LIMIT_MS),
    ]


def _cpu(race: Race, name: str, case: str) -> str:
    return figure(race.cost(race.contender(name, case), "cpu").scaled(1e-3), digits=1)


def budgets_of(result: Measured) -> list[Budget]:
    p99 = result.followed_by(TALKING, "p99").median
    return [
        Budget(
            f"{FIRST}: at most {FIRST_LIMIT_MS:g} ms",
            FIRST_LIMIT_MS,
            {"wall": statistics.median(result.p50(GRAPH))},
            at_most=True,
        ),
        Budget(f"{FOLLOWED}: 99 % have a part within {LATE_LIMIT_MS:g} ms", LATE_LIMIT_MS, {"wall": p99}, at_most=True),
    ]


def measure(options: Options) -> Report:
    names = [EMPTY, GRAPH] if options.quick else [EMPTY, GRAPH, LANGGRAPH, AEGRA]
    with fleet(names) as found, trackside(FUNCTION, ["_served_functions.py:talking"]) as talking:
        result = asyncio.run(measured(found, talking, options))
    notes = [*found.words(), *result.failed]
    return Report(
        name="sse",
        unit="nanoseconds until the first event, or until half of the followers have a part; cpu is the server's alone",
        race=result.race(),
        tables=[*tables_of(result), *(["\n".join(f"* {note}" for note in notes)] if notes else [])],
        budgets=budgets_of(result),
        ours=[GRAPH, TALKING],
        plots=plots_of(result),
        packages=["langgraph-sdk", "uvicorn", "starlette"],
        extra={
            "notes": notes,
            "followed_ms": {
                name: {what: astuple(result.followed_by(name, what)) for what in PERCENTILES}
                for name in result.followed
            },
        },
    )


def main() -> None:
    options = options_of(__doc__, EFFORT)
    publish(measure(options), options)


if __name__ == "__main__":
    main()
