"""What `import trackside` costs on top of a bare interpreter."""

import asyncio
import os
import sys
import tempfile
from contextlib import nullcontext

from _report import Budget, Report, figure, options_of, publish, table
from _rounds import Clock, Contender, Effort, Race, Spread, Work, race

BARE, OURS = "pass", "import trackside"
STATEMENTS = (BARE, "import asyncio", OURS)
EFFORT = Effort(rounds=21, seconds=0.1)
MILLISECONDS = 1e-6


def interpreter(statement: str, environment: dict[str, str]) -> Work:
    """Start fresh interpreters, each of which runs the statement and stops."""

    async def work(times: int) -> None:
        for _ in range(times):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", statement, env=environment)
            if await process.wait():
                raise SystemExit(f"{statement} failed")

    return work


def contender(statement: str, environment: dict[str, str]) -> Contender:
    return Contender(statement, "", lambda: nullcontext(interpreter(statement, environment)))


def measure(effort: Effort) -> Race:
    """All rounds, with compiled modules in a folder of their own, as an installed package has them."""
    with tempfile.TemporaryDirectory() as bytecode:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return race([contender(statement, environment) for statement in STATEMENTS], effort)


def table_of(result: Race) -> str:
    def milliseconds(spread: Spread) -> str:
        return figure(spread.scaled(MILLISECONDS), digits=1)

    bare = result.contender(BARE, "")
    rows = []
    for statement in STATEMENTS:
        way = result.contender(statement, "")
        rows.append(
            [
                f"`{statement}`",
                milliseconds(result.cost(way, "cpu")),
                milliseconds(result.cost(way, "wall")),
                milliseconds(result.difference(way, bare, "wall")),
            ]
        )
    return table(["a fresh interpreter", "ms of CPU time", "ms by wall clock", "more than `pass`, ms"], rows)


def main() -> None:
    options = options_of(__doc__, EFFORT)
    result = measure(options.effort)
    ours, bare = result.contender(OURS, ""), result.contender(BARE, "")

    def more(clock: Clock) -> Spread:
        return result.difference(ours, bare, clock).scaled(MILLISECONDS)

    report = Report(
        name="import_time",
        unit="nanoseconds for one interpreter",
        race=result,
        tables=[table_of(result)],
        budgets=[Budget.of("at most 60 ms more than a bare interpreter", 60, more, at_most=True)],
        ours=[OURS],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
