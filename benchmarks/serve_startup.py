"""How long a server takes until it answers, and the memory that it has then and after 10,000 runs."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

from _report import CLOCKS, Bars, Budget, Lines, Options, Plot, Report, figure, options_of, publish, table
from _rounds import Contender, Cost, Effort, Race
from _servers import AEGRA, EMPTY, FUNCTION, GRAPH, LANGGRAPH, Server, fleet
from serve_http import by_light_client

EFFORT = Effort(rounds=5, seconds=1.0)
START = "start to the first answer"
RUNS, PEERS_RUNS = 10_000, 500
TENTHS = 10
_GROWTH = 8.0  # MiB that do not count as growth: a page cache that fills, another arena


@dataclass(slots=True)
class Measured:
    """What was measured, by server."""

    starts: dict[str, list[Cost]] = field(default_factory=dict)
    resident: dict[str, list[float]] = field(default_factory=dict)
    """MiB when idle, and after each tenth of the runs."""
    runs: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def race(self) -> Race:
        """The figures in the usual form."""
        return Race({Contender(name, START): costs for name, costs in self.starts.items()})


def measure_starts(names: Sequence[str], rounds: int, result: Measured) -> None:
    """Start and stop each server in each round."""
    left = list(names)
    for number in range(rounds):
        for name in [*left[number % len(left) :], *left[: number % len(left)]]:
            with fleet([name]) as found:
                if name in found.missing:
                    left.remove(name)
                    result.notes += found.words()
                else:
                    server = found.servers[name]
                    result.starts.setdefault(name, []).append(Cost(server.cpu_ns(), server.started_in * 1e9))


async def memory_of(server: Server, runs: int) -> list[float]:
    """The MiB when idle, and after each tenth of the runs."""
    resident = [server.resident_mib()]
    for _ in range(TENTHS):
        await by_light_client(server, at_once=32, runs=max(1, runs // TENTHS))
        resident.append(server.resident_mib())
    return resident


def measure_memory(names: Sequence[str], runs: int, result: Measured) -> None:
    for name in names:
        result.runs[name] = min(runs, PEERS_RUNS) if name in {LANGGRAPH, AEGRA} else runs
        try:
            with fleet([name]) as found:
                for server in found.servers.values():
                    result.resident[name] = asyncio.run(memory_of(server, result.runs[name]))
        except Exception as exc:
            if name not in {LANGGRAPH, AEGRA}:
                raise
            result.notes.append(f"{name} does not manage {result.runs[name]:,} runs: {type(exc).__name__}")


def tables_of(result: Measured) -> list[str]:
    race = result.race()
    starts = [
        [way.name, *(figure(race.cost(way, clock).scaled(1e-9), digits=2) for clock in CLOCKS)] for way in race.costs
    ]
    memory = [
        [name, f"{result.runs[name]:,}", *(f"{mib:.1f}" for mib in (found[0], found[1], found[5], found[-1]))]
        for name, found in result.resident.items()
    ]
    header = ["MiB of memory", "runs", "idle", "after the first tenth", "after half", "after all"]
    return [table([START, "s of CPU time", "s"], starts), table(header, memory)]


def plots_of(result: Measured) -> list[Plot]:
    race = result.race()
    starts = {way.name: astuple(race.cost(way, "wall").scaled(1e-9)) for way in race.costs}
    memory = {
        name: [(result.runs[name] * tenth / TENTHS, mib) for tenth, mib in enumerate(found)]
        for name, found in result.resident.items()
    }
    return [Bars(START, "s", starts, 1.5), Lines("memory of the server", "runs", "MiB", memory, 120.0)]


def budgets_of(resident: Mapping[str, Sequence[float]], race: Race) -> list[Budget]:
    budgets: list[Budget] = []
    for name in (FUNCTION, GRAPH):
        seconds = race.cost(race.contender(name, START), "wall").median / 1e9
        budgets.append(Budget(f"{name}: answers after at most 1.5 s", 1.5, {"wall": seconds}, at_most=True))
        found = resident[name]
        budgets.append(Budget(f"{name}: at most 120 MiB, always", 120.0, {"memory": max(found)}, at_most=True))
        grown = max(found) - found[1]
        what = f"{name}: at most {_GROWTH:g} MiB more after all runs than after the first tenth"
        budgets.append(Budget(what, _GROWTH, {"memory": grown}, at_most=True))
    return budgets


def measure(options: Options) -> Report:
    ours = [EMPTY, FUNCTION, GRAPH]
    names = ours if options.quick else [*ours, LANGGRAPH, AEGRA]
    result = Measured()
    measure_starts(names, options.effort.rounds, result)
    measure_memory([name for name in names if name != EMPTY], 40 if options.quick else RUNS, result)
    notes = "\n".join(f"* {note}" for note in result.notes)
    return Report(
        name="startup",
        unit="nanoseconds until the first answer",
        race=result.race(),
        tables=[*tables_of(result), *([notes] if notes else [])],
        budgets=budgets_of(result.resident, result.race()),
        ours=[FUNCTION, GRAPH],
        plots=plots_of(result),
        packages=["uvicorn", "starlette", "langgraph"],
        extra={"notes": result.notes, "runs": result.runs, "resident_mib": result.resident},
    )


def main() -> None:
    options = options_of(__doc__, EFFORT)
    publish(measure(options), options)


if __name__ == "__main__":
    main()
