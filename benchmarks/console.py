"""How long the console's pages, and the answers of the API that they show, take to their first byte beside a long log."""

import argparse
import asyncio
import http.client
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from _long_log import fill
from _report import Bars, Budget, Report, options_of, publish, table
from _rounds import Contender, Cost, Effort, Race
from _servers import FUNCTION, Server, trackside

from trackside.app.storage import Store

EFFORT = Effort(rounds=5, seconds=1.0)
EVENTS, QUICK_EVENTS = 1_000_000, 50_000
CALLS, QUICK_CALLS = 100, 10
"""How often each is asked for, each time about another run."""
FIRST_BYTE = "first byte"
LIMIT_MS = 50


@dataclass(frozen=True, slots=True)
class Place:
    """A run somewhere in the log, with its thread and its place in a listing."""

    run_id: str
    thread_id: str
    cursor: str


def _ago(**length: float) -> str:
    return quote((datetime.now(UTC) - timedelta(**length)).isoformat())


def asked_for(place: Place) -> Mapping[str, str]:
    """The addresses by name: pages, then the API's answers where the pages ask for them."""
    day, week, month = _ago(days=1), _ago(days=7), _ago(days=30)
    return {
        "page: overview": "/ui",
        "page: overview of 7 days": "/ui?range=7d",
        "page: overview of 30 days": "/ui?range=30d",
        "page: runs": "/ui/runs",
        "page: runs, deep in the list": f"/ui/runs?before={quote(place.cursor)}",
        "page: runs that failed": "/ui/runs?status=error",
        "page: runs with a text that none has": "/ui/runs?text=no+such+text",
        "page: runs above a cost": "/ui/runs?min_cost=0.0049",
        "page: run": f"/ui/runs/{place.run_id}",
        "page: threads": "/ui/threads",
        "page: thread": f"/ui/threads/{place.thread_id}",
        "page: agents": "/ui/agents",
        "page: subscriptions": "/ui/subscriptions",
        "page: log": "/ui/log",
        "page: log, one type": "/ui/log?type=run_failed",
        "page: system": "/ui/system",
        "API: GET /runs": "/runs",
        "API: GET /runs, deep in the list": f"/runs?before={quote(place.cursor)}",
        "API: GET /runs, failed": "/runs?status=error",
        "API: GET /runs, a text that none has": "/runs?text=no+such+text",
        "API: GET /runs, the beginning of an id": f"/runs?text={place.run_id[:23]}",
        "API: GET /runs/{run_id}": f"/runs/{place.run_id}",
        "API: GET /runs/{run_id}/deliveries": f"/runs/{place.run_id}/deliveries",
        "API: GET /events of a run": f"/events?run_id={place.run_id}",
        "API: GET /events, the newest": "/events?newest_first=true",
        "API: GET /threads": "/threads",
        "API: GET /stats of a day": f"/stats?since={day}",
        "API: GET /stats of 30 days": f"/stats?since={month}",
        "API: GET /stats/timeline of a day": f"/stats/timeline?since={day}",
        "API: GET /stats/timeline of 7 days, by quarter days": f"/stats/timeline?since={week}&width=21600",
        "API: GET /stats/timeline of 30 days, by days": f"/stats/timeline?since={month}&width=86400",
        "API: GET /stats/failures": "/stats/failures",
        "API: GET /stats/failures of 30 days": f"/stats/failures?since={month}",
        "API: GET /stats/now": "/stats/now",
        "API: GET /subscriptions": "/subscriptions",
        "API: GET /system": "/system",
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, metavar="N", help=f"fill a log with so many instead of {EVENTS:,}")
    parser.add_argument("--database", metavar="URL", help="a database to look at, instead of a temporary SQLite file")
    parser.add_argument("--filled", action="store_true", help="the database is full already, from a run before")


async def places(url: str, count: int) -> list[Place]:
    """This many runs, spread over the whole log, on threads whose ids the API accepts."""
    chance, found = random.Random(1), list[Place]()
    async with Store.open(url) as store:
        (last,) = await store.events(newest_first=True, limit=1)
        while len(found) < count:
            (stored,) = await store.events(chance.randrange(last.position), limit=1)
            run = await store.run(stored.event.run_id)
            if run is not None and run.thread_id.count("-") == 4:
                found.append(Place(run.run_id, run.thread_id, run.cursor))
    return found


async def fill_up(url: str, count: int) -> None:
    # Whatever a power cut loses is filled in again.
    async with Store.open(url, synchronous="NORMAL") as store:
        await fill(store, count, thread_id_of=lambda number: str(UUID(int=number, version=4)))


@dataclass(slots=True)
class Answers:
    """How long one address took each time, in seconds, and what else is recorded about a round's answers."""

    first_byte: list[float]
    whole: list[float]
    size: int = 0
    status: int = 0


def ask_all(server: Server, at: Sequence[Place], rounds: int) -> tuple[dict[str, Answers], Race]:
    """Ask for each address at each place, in this many rounds; one after another, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    names = [*asked_for(at[0])]
    found = {name: Answers([], []) for name in names}
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for name in names:  # to compile templates and fill caches
        _ask(connection, asked_for(at[0])[name], Answers([], []))
    share = max(1, len(at) // rounds)
    for number in range(rounds):
        for name in names:
            one = found[name]
            cpu, before = server.cpu_ns(), len(one.first_byte)
            for place in at[number * share : (number + 1) * share]:
                _ask(connection, asked_for(place)[name], one)
            taken = one.first_byte[before:]
            costs[name].append(Cost((server.cpu_ns() - cpu) / len(taken) + 1, sum(taken) / len(taken) * 1e9))
    connection.close()
    return found, Race({Contender(name, FIRST_BYTE): one for name, one in costs.items()})


def _ask(connection: http.client.HTTPConnection, address: str, into: Answers) -> None:
    begun = time.perf_counter()
    connection.request("GET", address, headers={"Accept": "text/html" if address.startswith("/ui") else "*/*"})
    answer = connection.getresponse()
    into.first_byte.append(time.perf_counter() - begun)
    into.size, into.status = len(answer.read()), answer.status
    into.whole.append(time.perf_counter() - begun)
    if answer.status != 200:
        raise RuntimeError(f"{address} was answered with {answer.status}: that says nothing of how long it takes")


def tables_of(found: Mapping[str, Answers], result: Race, facts: Sequence[Sequence[str]]) -> list[str]:
    rows = []
    for name, one in found.items():
        first, whole = _p50_p95(one.first_byte), _p50_p95(one.whole)
        cpu = result.cost(result.contender(name, FIRST_BYTE), "cpu").median / 1e6
        figures = (f"{ms:.1f}" for ms in (*first, whole[1], cpu))
        rows.append([name, *figures, f"{one.size / 1024:,.1f}", str(one.status)])
    header = ["asked for", "first byte p50, ms", "p95, ms", "whole p95, ms", "CPU, ms", "KiB", "status"]
    return [table(["the log", ""], facts), table(header, rows)]


def _p50_p95(seconds: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return ordered[-(-len(ordered) * 50 // 100) - 1] * 1e3, ordered[-(-len(ordered) * 95 // 100) - 1] * 1e3


def _up_to_p95(one: Answers) -> tuple[float, float, float]:
    p50, p95 = _p50_p95(one.first_byte)
    return p50, p50, p95


def budgets_of(found: Mapping[str, Answers]) -> list[Budget]:
    budgets: list[Budget] = []
    for kind, what in (("page:", "any page"), ("API:", "any of its answers")):
        p95 = {name: _p50_p95(one.first_byte)[1] for name, one in found.items() if name.startswith(kind)}
        name, slowest = max(p95.items(), key=lambda one: one[1])
        said = f"{what}: first byte at most {LIMIT_MS} ms (p95); the slowest is “{name.partition(': ')[2]}”"
        budgets.append(Budget(said, LIMIT_MS, {"wall": slowest}, at_most=True))
    return budgets


def main() -> None:
    options = options_of(__doc__, EFFORT, more=add_arguments)
    given = options.given
    if given.filled and not given.events:
        sys.exit("console: --filled: say how many events it has, with --events N")
    count = given.events or (QUICK_EVENTS if options.quick else EVENTS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.db"
        url = given.database or f"sqlite:///{path}"
        if not given.filled:
            asyncio.run(fill_up(url, count))
        at = asyncio.run(places(url, QUICK_CALLS if options.quick else CALLS))
        with trackside(FUNCTION, ["_served_functions.py:noop"], more=["--database", url]) as server:
            found, race = ask_all(server, at, options.effort.rounds)
    facts = [["events", f"{count:,}"], ["asked for each", f"{len(at)}"]]
    report = Report(
        name="console",
        unit="nanoseconds to the first byte",
        race=race,
        tables=tables_of(found, race, facts),
        budgets=budgets_of(found),
        ours=[*found],
        plots=[
            Bars(FIRST_BYTE, "ms, p50 and up to p95", {name: _up_to_p95(one) for name, one in found.items()}, LIMIT_MS)
        ],
        packages=["uvicorn", "starlette", "jinja2", "sqlalchemy"],
        extra={
            "events": count,
            "milliseconds": {
                name: dict(zip(("p50", "p95"), _p50_p95(one.first_byte), strict=True)) for name, one in found.items()
            },
        },
    )
    publish(report, options)


if __name__ == "__main__":
    main()
