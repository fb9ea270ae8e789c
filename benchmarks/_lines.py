"""The figures that Trackside is held to: what each is, its budget, and which benchmark's results hold it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from _report import Budget
from _results import Result
from _rounds import Clock

type Cell = Callable[[Result], Sequence[str]]
"""The text of a table cell, line by line."""

type Unit = Literal["ns", "ms", "s", "/s"]

_NANOSECONDS: Final[Mapping[Unit, float]] = {"ns": 1, "ms": 1e6, "s": 1e9}
_OBSERVERS: Final = ("1 observer", "4 observers", "16 observers")
_SERVERS: Final = ("langgraph dev", "aegra")
_HTTP_PEERS: Final = ("empty server", *_SERVERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A figure with a budget, or several that belong together.

    `keeps` is a text that the benchmark's budgets contain, `ours` and `peers` are the figures themselves, and `why`
    says what is known when the budget is missed, with figures of the result where there are any.
    """

    work: str
    budget: str
    benchmark: str
    keeps: str
    ours: Cell
    peers: Cell
    why: str | Callable[[Result], str]

    def reason(self, result: Result) -> str:
        """Why the budget is missed, as far as that is known."""
        return self.why if isinstance(self.why, str) else self.why(result)

    def budgets_in(self, result: Result) -> list[Budget]:
        """Those of the benchmark's budgets that are this line's."""
        return [one for one in result.budgets if self.keeps and self.keeps in one.what]

    @property
    def command(self) -> str:
        return f"./scripts/bench {self.benchmark}"


def timed(unit: Unit, cases: Sequence[str], *names: str, clock: Clock = "wall") -> Cell:
    """What contenders took in each case, or how many they did in a second: one line for each one that was measured."""

    def cell(result: Result) -> list[str]:
        lines = []
        for name in names:
            found = [result.spread(name, case, clock) for case in cases]
            if any(found):
                figures = (said(_in(unit, one.median)) if one else "–" for one in found)
                lines.append(f"{name}: {' / '.join(figures)} {unit.replace('/s', 'a second')}")
        return lines

    return cell


def kept(key: str, pick: Callable[[str, object], str | None]) -> Cell:
    """What a benchmark recorded besides its contenders, as `pick` words it."""

    def cell(result: Result) -> list[str]:
        found: Mapping[str, object] = result.written.get(key, {})
        return [line for name, value in found.items() if (line := pick(name, value)) is not None]

    return cell


def nothing(result: Result) -> list[str]:
    """Nothing, where nobody else is measured."""
    return []


def said(value: float) -> str:
    """A figure in as many digits as matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _in(unit: Unit, nanoseconds: float) -> float:
    return 1e9 / nanoseconds if unit == "/s" else nanoseconds / _NANOSECONDS[unit]


def _waits(*names: str) -> Cell:
    """Medians of waits, which the benchmark records by case and server."""

    def pick(key: str, value: object) -> str | None:
        case, _, name = key.rpartition(": ")
        if case != "wait, one at a time" or name not in names or not isinstance(value, list):
            return None
        return f"{name}: {said(median(value))} ms"

    return kept("median_ms", pick)


def _followed(*names: str) -> Cell:
    def pick(name: str, value: object) -> str | None:
        return f"{name}: {said(value['p99'][1])} ms" if name in names and isinstance(value, dict) else None

    return kept("followed_ms", pick)


def _memory(*names: str) -> Cell:
    def pick(name: str, value: object) -> str | None:
        if name not in names or not isinstance(value, list):
            return None
        return f"{name}: {value[0]:.0f} → {value[-1]:.0f} MiB"

    return kept("resident_mib", pick)


def _slowest_pages(result: Result) -> list[str]:
    """The three slowest pages, and how many are above the budget."""
    found = {
        name: value["p99"]
        for name, value in result.written["milliseconds"].items()
        if not name.startswith(("stats", "timeline"))
    }
    above = sum(p99 > 10 for p99 in found.values())
    slowest = sorted(found, key=lambda name: -found[name])[:3]
    return [*(f"{name}: {said(found[name])} ms" for name in slowest), f"{above} of {len(found)} kinds above 10 ms"]


def _fastest_growing(result: Result) -> list[str]:
    """The three figures whose exponents are furthest above what they must be, or least below it, by wall clock."""
    excess = {
        f"{name}, {title}": max(by["wall"]["exponent"], by["wall"]["upper"]) - by["wall"]["must"]
        for title, lines in result.written["growth"].items()
        for name, by in lines.items()
    }
    return [f"{name}: exponent {excess[name]:+.2f}" for name in sorted(excess, key=lambda name: -excess[name])[:3]]


def _of_makespan(*names: str) -> Cell:
    def cell(result: Result) -> list[str]:
        found = {name: result.spread(name, "32 runs of one second") for name in names}
        return [f"{name}: {said(one.median * 32 / 1e9)} s" for name, one in found.items() if one]

    return cell


def _appends(database: str) -> Line:
    cases = [f"{database}, {width} producer{'s' if width > 1 else ''}" for width in (1, 16, 64, 256)]
    return Line(
        work=f"durable events a second, {database}, 1 / 16 / 64 / 256 producers",
        budget="at least 0.6 × the same rows by group commit by hand",
        benchmark="append",
        keeps=f"{database}, ",
        ours=timed("/s", cases, "Store.append"),
        peers=timed("/s", cases, "by hand, the same rows", "by hand, events alone", "SQLAlchemy ORM, row by row"),
        why="the code by hand checks nothing. The store checks that events follow on one another, are stored once and"
        " can be kept, and makes payloads canonical: that is the difference. With a single producer, the way between"
        " two threads comes on top",
    )


def _runs(database: str) -> Line:
    cases = [f"{database}, {width}" for width in ("one at a time", "32 at once", "256 at once")]
    return Line(
        work=f"complete durable runs a second (three commits waited for), {database}, 1 / 32 / 256 at once",
        budget="at least 0.6 × the same rows by group commit by hand",
        benchmark="runs",
        keeps=f"{database}, ",
        ours=timed("/s", cases, "RunManager on a store"),
        peers=timed(
            "/s", cases, "by hand, the same rows", "SQLAlchemy ORM, row by row", "DBOS, a workflow of one step"
        ),
        why=_with_a_store_that_costs_nothing(cases),
    )


def _with_a_store_that_costs_nothing(cases: Sequence[str]) -> Callable[[Result], str]:
    """Say what the run itself leaves of the budget."""

    def why(result: Result) -> str:
        left = []
        for case in cases:
            hand = result.spread("by hand, the same rows", case, "cpu")
            run = result.spread("RunManager in memory, its agent writes them by hand", case, "cpu")
            left.append(f"{hand.median / run.median:.2f}" if hand and run else "–")
        return (
            "a run is more than its rows: it has a task, time limits, a journal, and its turn on the thread. A run in"
            " memory whose agent writes the rows by hand, as if the store cost nothing, comes to"
            f" {' / '.join(left)} by CPU time. The rest is the store: what it reads, judges and encodes before it"
            " writes, the way to its thread and back for each of the commits, and one more to see whether another run waits"
        )

    return why


def _http(case: str, work: str, least: float) -> Line:
    return Line(
        work=work,
        budget=f"at least {least} × the empty server's rate",
        benchmark="http",
        keeps=f"{case}: at least {least} of the empty server's rate",
        ours=timed("/s", [case], "trackside, graph"),
        peers=timed("/s", [case], *_HTTP_PEERS),
        why="a durable run waits for four transactions, and LangGraph itself takes half of the loop's time",
    )


def _light(server: str, what: str, least: int) -> Line:
    cases = ["wait, light client, 32 at once", "wait, light client, 256 at once"]
    return Line(
        work=f"waits with a light client, of a {what} that does nothing, 32 / 256 at once",
        budget=f"at least {least:,} a second",
        benchmark="http",
        keeps=f"{server}: at least {least:,} runs/s",
        ours=timed("/s", cases, server),
        peers=timed("/s", cases, "empty server"),
        why="a run waits for its transactions, one after the other, and for a flush of the disk",
    )


LINES: Final[Sequence[Line]] = (
    Line(
        work="dispatch of one event to 1 / 4 / 16 observers that do nothing",
        budget="at most 1.5 × a bare loop",
        benchmark="dispatch",
        keeps="at most 1.5 times a bare loop",
        ours=timed("ns", _OBSERVERS, "CompositeObserver.on_event", clock="cpu"),
        peers=timed(
            "ns",
            _OBSERVERS,
            "bare loop",
            "OpenLineage CompositeTransport.emit",
            "blinker Signal.send_async",
            clock="cpu",
        ),
        why="each call of an observer is in a `try` of its own, and in an order that holds while observers come and go",
    ),
    Line(
        work="dispatch of one event to 1 / 4 / 16 observers, beside LangChain's callbacks",
        budget="at least 20 × as fast",
        benchmark="dispatch",
        keeps="at least 20 times as fast as LangChain",
        ours=timed("ns", _OBSERVERS, "CompositeObserver.on_event", clock="cpu"),
        peers=timed(
            "ns",
            _OBSERVERS,
            "LangChain on_custom_event, inline handlers",
            "LangChain on_custom_event",
            clock="cpu",
        ),
        why="held against LangChain's fastest way, `run_inline`; what a handler is by default is three times as slow",
    ),
    Line(
        work="a run in memory that does nothing, 32 at once: no observer / a required one / an optional one",
        budget="at least 0.4 × a naive loop",
        benchmark="memory_runs",
        keeps="at least 0.4 of the naive loop's rate",
        ours=timed(
            "/s",
            ["asyncio, 32 at once"],
            "RunManager, no observer",
            "RunManager, 1 required observer",
            "RunManager, 1 optional observer",
        ),
        peers=timed("/s", ["asyncio, 32 at once"], "naive loop", "naive loop with Trackside's ids"),
        why="the agent and the observers have tasks of their own, which can be stopped and left behind without harm to the"
        " run; an optional observer's events pass through a buffer that accounts for each of them",
    ),
    Line(
        work="a run in memory that does nothing, 32 at once, as before",
        budget="at least 25,000 a second",
        benchmark="memory_runs",
        keeps="at least 25,000 runs/s",
        ours=timed(
            "/s",
            ["asyncio, 32 at once"],
            "RunManager, no observer",
            "RunManager, 1 required observer",
            "RunManager, 1 optional observer",
        ),
        peers=timed("/s", ["asyncio, 32 at once"], "naive loop"),
        why="it was met when it was first measured. Limits, budgets, calls, attempts and what a thread remembers have been"
        " added since; an optional observer has a buffer, and the result waits for it",
    ),
    _appends("SQLite"),
    _appends("PostgreSQL"),
    _runs("SQLite"),
    _runs("PostgreSQL"),
    Line(
        work="`runs.wait` by LangGraph's Python client, a graph that does nothing, one at a time, p50",
        budget="at most 6 ms, durable; the empty server is what the client itself takes",
        benchmark="http",
        keeps="one at a time: a wait takes at most 6 ms",
        ours=_waits("trackside, graph"),
        peers=_waits(*_HTTP_PEERS),
        why="a run waits for four transactions, one after the other, and each is flushed to the disk",
    ),
    _http("wait, 32 at once", "`runs.wait`, 32 at once", 0.7),
    Line(
        work="`runs.wait`, 32 at once, beside the best of the other servers",
        budget="at least 5 × as many",
        benchmark="http",
        keeps="at least 5 times the best of the others",
        ours=timed("/s", ["wait, 32 at once"], "trackside, graph"),
        peers=timed("/s", ["wait, 32 at once"], *_SERVERS),
        why="the client itself is the limit: compare its rate with the empty server",
    ),
    _http("create + join, 32 at once", "create and join, 32 at once (two requests)", 0.6),
    _http("create + stream, 32 at once", "create and stream, 32 at once", 0.6),
    _light("trackside, function", "function", 1_500),
    _light("trackside, graph", "graph", 700),
    Line(
        work="time to the first SSE event, p50",
        budget="at most 4 ms",
        benchmark="sse",
        keeps="the first event of a run: at most 4 ms",
        ours=timed("ms", ["the first event of a run"], "trackside, graph"),
        peers=timed("ms", ["the first event of a run"], *_HTTP_PEERS),
        why="a run's opening is a transaction, which is flushed before anybody is told",
    ),
    Line(
        work="32 runs of one second, until all have ended, default settings",
        budget="at most 1.1 s",
        benchmark="http",
        keeps="32 runs of one second: at most 1.1 s",
        ours=_of_makespan("trackside, graph"),
        peers=_of_makespan(*_SERVERS),
        why="32 runs begin and end at once",
    ),
    Line(
        work="1,000 SSE followers of one run, until 99 of 100 have a part",
        budget="at most 60 ms",
        benchmark="sse",
        keeps="followers of one run: 99 % have a part within 60 ms",
        ours=_followed("trackside"),
        peers=_followed("empty server"),
        why="all followers share one loop: the last waits for all the others",
    ),
    Line(
        work="a store with 10,000,000 events, SQLite: appending",
        budget="at least 0.9 × an empty store",
        benchmark="big",
        keeps="append at least 0.9 of the rate of an empty store",
        ours=timed("/s", ["append, 64 producers"], "the full store"),
        peers=timed("/s", ["append, 64 producers"], "an empty store"),
        why="indexes that do not fit into the page cache",
    ),
    Line(
        work="a store with 10,000,000 events, SQLite: any page of 50, p99 (the slowest are named)",
        budget="at most 10 ms",
        benchmark="big",
        keeps="any page at most 10 ms (p99)",
        ours=_slowest_pages,
        peers=nothing,
        why="no index has what a search looks for, so the search looks at some hundred runs one by one and says where"
        " it goes on. For a page of fifty threads with a run of an agent, or with metadata, the store looks up each of"
        " these threads and sorts them all",
    ),
    Line(
        work="growth with the data: figures that grow no faster than they must",
        budget="all, within 0.1 of the exponent",
        benchmark="growth",
        keeps="lines have an exponent at most",
        ours=_fastest_growing,
        peers=nothing,
        why="the more runs there are at once, the more each costs, in memory as well as on SQLite, because Python's"
        " garbage collector looks at all objects that are alive. The lines are named below the benchmark's tables",
    ),
    Line(
        work="server: start to the first 200, with a function / with a graph",
        budget="at most 1.5 s",
        benchmark="startup",
        keeps="answers after at most 1.5 s",
        ours=timed("s", ["start to the first answer"], "trackside, function", "trackside, graph"),
        peers=timed("s", ["start to the first answer"], *_HTTP_PEERS),
        why="most of it is importing: SQLAlchemy and what serves HTTP, and with a graph LangGraph",
    ),
    Line(
        work="server: memory when idle → after 10,000 runs (others: 500 runs)",
        budget="at most 120 MiB",
        benchmark="startup",
        keeps="at most 120 MiB, always",
        ours=_memory("trackside, function", "trackside, graph"),
        peers=_memory(*_SERVERS),
        why="imports take their memory before the first run: LangGraph, with what it imports, takes 39 MiB of it",
    ),
    Line(
        work="server: memory from the first tenth of the runs to the last",
        budget="flat: at most 8 MiB more",
        benchmark="startup",
        keeps="more after all runs than after the first tenth",
        ours=_memory("trackside, function", "trackside, graph"),
        peers=_memory(*_SERVERS),
        why="the caches of SQLite's connections, which fill, and arenas of the allocator",
    ),
)
