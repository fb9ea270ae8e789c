"""How fast each figure grows with the data: appends, runs, pages, totals, claims, checkpoints, followers."""

import argparse
import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial

from _databases import Databases, PostgresDatabases, SqliteFiles
from _growth_fit import TOLERANCE, Growth
from _growth_lines import DATA_SETS, MEMORY, DataSet, Line
from _report import CLOCKS, Budget, Lines, Options, Report, options_of, publish, table
from _rounds import Clock, Contender, Cost, Effort, Race, race

EFFORT = Effort(rounds=5, seconds=0.08)
QUICK_SIZES = (10, 20)


class NoDatabase:
    """Stands in where there is no database: its address is empty."""

    name = MEMORY

    @asynccontextmanager
    async def new(self, *, with_tables: bool) -> AsyncGenerator[str]:
        yield ""

    def cpu_ns(self) -> int:
        return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--full", action="store_true", help="the largest sizes, too: 10,000,000 events, 1,000,000 threads"
    )
    parser.add_argument(
        "--only", metavar="WHAT", choices=[one.what for one in DATA_SETS], help="one kind of data alone"
    )


def sizes_of(of: DataSet, options: Options) -> Sequence[int]:
    """The sizes to measure, one after another."""
    if options.quick:
        return QUICK_SIZES
    return [*of.sizes, *(of.more if options.given.full else ())]


def title_of(group: str, database: str) -> str:
    return f"{group}, {database}"


def case_of(line: Line, group: str, database: str) -> str:
    return f"{title_of(group, database)}: {line.name}"


def size_name(of: DataSet, size: int) -> str:
    return f"{size:,} {of.what}"


@contextmanager
def filled(of: DataSet, databases: Databases, sizes: Sequence[int]) -> Generator[dict[int, str]]:
    """The addresses of databases filled with data of these sizes."""
    stack = AsyncExitStack()

    async def fill() -> dict[int, str]:
        urls = {}
        for size in sizes:
            urls[size] = await stack.enter_async_context(databases.new(with_tables=True))
            await of.fill(urls[size], size)
        return urls

    with asyncio.Runner() as runner:
        try:
            yield runner.run(fill())
        finally:
            runner.run(stack.aclose())


def raced(of: DataSet, databases: Databases, options: Options) -> Race:
    """Measure all lines of this data on one kind of database, at each size."""
    with filled(of, databases, sizes_of(of, options)) as urls:
        contenders = [
            Contender(
                size_name(of, size),
                case_of(line, group, databases.name),
                partial(line.open, url, size),
                server_cpu_ns=databases.cpu_ns,
            )
            for group, lines in of.groups
            for line in lines
            for size, url in urls.items()
        ]
        return race(contenders, options.effort)


def measured(options: Options) -> tuple[Race, list[tuple[DataSet, str]]]:
    """Measure everything; gives it, and what was measured where."""
    costs: dict[Contender, Sequence[Cost]] = {}
    found: list[tuple[DataSet, str]] = []
    with PostgresDatabases() as server:
        for of in DATA_SETS:
            for databases in (NoDatabase(), SqliteFiles(), server):
                if databases.name in of.on and options.given.only in {None, of.what}:
                    costs |= raced(of, databases, options).costs
                    found.append((of, databases.name))
    return Race(costs), found


def growth_of(result: Race, of: DataSet, sizes: Sequence[int], line: Line, case: str, clock: Clock) -> Growth:
    """How a line grew, by one clock."""
    return Growth(
        line.must,
        [
            (size, [cost.by(clock) for cost in result.costs[result.contender(size_name(of, size), case)]])
            for size in sizes
        ],
    )


type Grown = Mapping[str, Mapping[Clock, Growth]]
"""The lines of a group by name, then by clock."""


def groups_of(
    result: Race, found: Sequence[tuple[DataSet, str]], options: Options
) -> Iterator[tuple[str, DataSet, Grown]]:
    """The lines of each group on each database, under the group's title."""
    for of, database in found:
        for group, lines in of.groups:
            yield (
                title_of(group, database),
                of,
                {
                    line.name: {
                        clock: growth_of(result, of, sizes_of(of, options), line, case_of(line, group, database), clock)
                        for clock in CLOCKS
                    }
                    for line in lines
                },
            )


def table_of(title: str, of: DataSet, grown: Grown) -> str:
    """The medians at each size, and how fast they grow."""
    wall_of_one = next(iter(grown.values()))["wall"]
    sizes = [f"{size:,}" for size, _ in wall_of_one.rounds]
    header = [
        title,
        *(f"{size} {of.what}, ms" if place == 0 else size for place, size in enumerate(sizes)),
        "exponent",
        "by CPU time",
        "last step",
        "must",
        "",
    ]
    rows = [
        [
            name,
            *(f"{median / 1e6:,.2f}" for _, median in by["wall"].medians),
            str(by["wall"].fit),
            str(by["cpu"].fit),
            f"{by['wall'].last_step:.2f}",
            f"{by['wall'].must:g}",
            "met" if all(one.met for one in by.values()) else "**missed**",
        ]
        for name, by in grown.items()
    ]
    return table(header, rows, words=(0, len(header) - 1))


def plot_of(title: str, of: DataSet, grown: Grown) -> Lines:
    return Lines(
        title,
        of.what,
        "ms, wall clock",
        {name: [(size, cost / 1e6) for size, cost in by["wall"].medians] for name, by in grown.items()},
        logarithmic=True,
    )


def budget_of_all(groups: Sequence[Grown]) -> Budget:
    """The budget that no line grows faster than it must."""
    lines = [by for grown in groups for by in grown.values()]
    return Budget(
        f"all {len(lines)} lines have an exponent at most {TOLERANCE:g} above what it must be",
        len(lines),
        {clock: sum(by[clock].met for by in lines) for clock in CLOCKS},
    )


def budget_of(title: str, grown: Grown) -> Budget:
    """The budget that none of these grows faster than it must."""
    excess = {name: max(one.excess for one in by.values()) for name, by in grown.items()}
    name = max(excess, key=lambda one: excess[one])
    return Budget(
        f"{title}: no exponent more than {TOLERANCE:g} above what it must be; the nearest is “{name}”",
        TOLERANCE,
        {clock: grown[name][clock].excess for clock in CLOCKS},
        at_most=True,
    )


def exponents(grown: Grown) -> dict[str, object]:
    """The figures that only the JSON has."""
    return {
        name: {
            clock: {
                "exponent": one.fit.exponent,
                "error": one.fit.error,
                "upper": one.upper.exponent,
                "last_step": one.last_step,
                "must": one.must,
            }
            for clock, one in by.items()
        }
        for name, by in grown.items()
    }


def main() -> None:
    options = options_of(__doc__, EFFORT, more=add_arguments)
    result, found = measured(options)
    groups = [*groups_of(result, found, options)]
    report = Report(
        name="growth",
        unit="nanoseconds for the work once",
        race=result,
        tables=[table_of(title, of, grown) for title, of, grown in groups],
        budgets=[
            budget_of_all([grown for _, _, grown in groups]),
            *(budget_of(title, grown) for title, _, grown in groups),
        ],
        plots=[plot_of(title, of, grown) for title, of, grown in groups],
        packages=["sqlalchemy", "asyncpg", "langgraph"],
        extra={"growth": {title: exponents(grown) for title, _, grown in groups}},
    )
    publish(report, options)


if __name__ == "__main__":
    main()
