"""The command `./scripts/torture`: it puts each system through its ordeal, and says what came of it."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.torture import report, soak
from tests.torture.faults import FAULTS
from tests.torture.ordeal import Ordeal, Plan, Result, new_folder
from tests.torture.systems import SYSTEMS

MINUTES: Final = 5.0
SHARES: Final = {"sqlite": 1.0, "postgres": 1.0, "fleet": 2.0}
"""Shares of the time: a fleet has the most that can be hurt."""
_AROUND: Final = {"sqlite": 20.0, "postgres": 25.0, "fleet": 45.0}
"""Seconds for the start, the rest and the judgement, on a slow machine."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options in a command line; if they make no sense, exits with 2 and a line that says why."""
    names = ", ".join(kind.name for kind in FAULTS)
    parser = argparse.ArgumentParser(
        prog="./scripts/torture",
        description="Puts whole systems under mixed load, breaks them in every way, and has an independent checker judge "
        "what is left. Exit code 0: nothing was wrong, and each enabled fault happened.",
    )
    parser.add_argument("what", nargs="?", choices=("faults", "soak"), default="faults", help="faults if left out")
    parser.add_argument("--minutes", type=float, default=None, metavar="M", help=f"in all, {MINUTES:g} if left out")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="go on until there were so many SIGKILLs")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="of all that chance decides")
    parser.add_argument("--only", default="", metavar="NAME,…", help=f"these faults alone: {names}")
    parser.add_argument(
        "--database", choices=tuple(SYSTEMS), default=None, help="one system alone; else one after another"
    )
    parser.add_argument("--clients", type=int, default=1, metavar="N", help="of each kind, 1 if left out")
    parser.add_argument("--list", action="store_true", help="say which faults there are, what they do and need")
    parser.add_argument("--report", type=Path, default=None, metavar="FILE.json", help="write the report to this file")
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name]
    if unknown := {*options.only} - {kind.name for kind in FAULTS}:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}; there are {names}")
    if options.minutes is not None and not 0 < options.minutes < 10_000:
        parser.error(f"--minutes is more than 0, and not {options.minutes:g}")
    if options.kills < 0 or options.clients < 1:
        parser.error("--kills is not negative, and --clients at least 1")
    return options


def plans(options: argparse.Namespace, seed: int) -> list[Plan]:
    """What to do to which system: the time is divided between the systems, and so are the kills."""
    names = [options.database] if options.database else [*SYSTEMS]
    usual = soak.MINUTES if options.what == "soak" else MINUTES
    whole = (usual if options.minutes is None else options.minutes) * 60 - sum(_AROUND[name] for name in names)
    share = sum(SHARES[name] for name in names)
    chance = random.Random(seed)
    return [
        Plan(
            system=name,
            seed=chance.randrange(2**32),
            seconds=max(0.0, whole * SHARES[name] / share),
            kills=round(options.kills * SHARES[name] / share),
            only=options.only,
            clients=options.clients,
        )
        for name in names
    ]


def torture(options: argparse.Namespace, seed: int) -> int:
    """Go through all ordeals; returns the exit code."""
    began = time.monotonic()
    results: list[Result] = []
    for plan in plans(options, seed):
        say(f"{plan.system}: {plan.seconds:.0f} s, seed {plan.seed}")
        happened = {name for result in results for name in result.happened}
        ordeal = Ordeal(plan, new_folder(plan.system), say, elsewhere=happened)
        results.append(asyncio.run(ordeal.go_through()))
    said = report.as_json(results, seed, time.monotonic() - began)
    print("\n".join(report.lines(said)), flush=True)
    if options.report is not None:
        report.write(options.report, said)
    return 0 if report.is_sound(results) else 1


def say(line: str) -> None:
    """Say what happens, as it happens."""
    print(line, flush=True)


def list_faults() -> None:
    """Print all faults, and what they do and need."""
    for kind in FAULTS:
        print(f"{kind.name:<16} {kind.does}; needs {kind.needs}")


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = parse(arguments)
    warnings.filterwarnings("ignore", message="Request failed, attempting reconnect")
    warnings.filterwarnings("ignore", message="Reconnecting without a Last-Event-ID")
    if options.list:
        list_faults()
        return 0
    seed = random.randrange(2**32) if options.seed is None else options.seed
    return soak.run(options, seed, plans(options, seed)) if options.what == "soak" else torture(options, seed)
