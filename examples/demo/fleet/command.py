"""The command `./scripts/demo fleet`: a fleet loses one part after another while clients use it, and what is left."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from fenced_journal import FencedJournal
from fleet import ATTEMPTS, SETTINGS
from fleet_check import Counts, look_over
from fleet_clients import AGENT, FleetClients
from log_check import look_into
from rich.text import Text

from demo.commandline import DemoError, Parser, UsageError, exit_code_of
from demo.fleet.losses import Losses
from demo.fleet.result import print_result
from trackside.app.cli.serving.fleet_views import FleetLines, open_view
from trackside.app.cli.serving.fleet_watch import FleetWatch
from trackside.app.cli.views.output import standard_output
from trackside.app.engine.local import FleetPlan, LocalFleet
from trackside.app.storage import Store

_REST_SECONDS: Final = 60.0
_LOOK_AGAIN: Final = 0.1  # seconds
_AWAY: Final = 3.0
"""Seconds that a process stays gone, so that the viewer sees it."""


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options in a command line.

    Raises:
        UsageError: the options make no sense; the message says why.
    """
    parser = Parser(
        prog="./scripts/demo fleet",
        description="A fleet on this machine that loses a worker, a server and its broker one after the other, while "
        "clients of LangGraph's SDK keep runs coming. In the end an independent check counts what is left. Ends by itself.",
    )
    parser.add_argument(
        "--engine", choices=("nats", "postgres"), default="nats", help="what moves work, nats if left out"
    )
    parser.add_argument("-n", "--workers", type=int, default=3, metavar="N", help="how many workers, 3 if left out")
    parser.add_argument("--servers", type=int, default=2, metavar="N", help="how many servers, 2 if left out")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long clients use it, 40 if left out")
    options = parser.parse_args(arguments)
    if not 2 <= options.workers <= 32 or not 2 <= options.servers <= 16:
        raise UsageError(
            "there have to be two workers and two servers at least, so that one can be lost; and not hundreds"
        )
    if not options.seconds > 0:
        raise UsageError(f"--seconds is more than nothing, and not {options.seconds:g}")
    return options


class FleetDemo:
    """One run of the demo, in a folder that is removed afterwards."""

    def __init__(self, options: argparse.Namespace, folder: Path, view: FleetLines) -> None:
        self.counts: Counts | None = None
        self.wrong: list[str] = []
        self.killed: Sequence[str] = ()
        self.went_on = 0
        self._seconds = options.seconds
        self._journal = FencedJournal(folder)
        self._view = view
        self._plan = FleetPlan(
            folder=folder,
            servers=options.servers,
            workers=options.workers,
            engine=options.engine,
            cwd=folder,
            pause=_AWAY,
            env={
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "FLEET_JOURNAL": str(folder),
                "TRACKSIDE_ENGINE_LEASE": "5s",
            },
        )

    async def play(self) -> None:
        """Start the fleet, use it, hurt it, and look at what is left.

        Raises:
            TracksideError: the fleet cannot be started.
            DemoError: a part of it does not come back, or it does not come to rest.
        """
        async with LocalFleet(self._plan, self._view.happened) as fleet:
            self._view.begin(self._plan)
            await fleet.start_stores()
            async with AsyncExitStack() as stack:
                store = await stack.enter_async_context(Store.open(fleet.database_url))
                watch = await stack.enter_async_context(FleetWatch(fleet, store, self._view.show))
                await fleet.start_processes()
                self._view.say_up(fleet, "talks", keys=False)
                await self._use(fleet, watch)
                await self._rest(fleet.database_url)
                await fleet.drain()
            self.counts, self.wrong = await asyncio.to_thread(look_over, fleet.database_url, self._journal, self._words)
            await fleet.stop_stores()

    async def _use(self, fleet: LocalFleet, watch: FleetWatch) -> None:
        losses = Losses(fleet, lambda: watch.now, self._view.happened)
        async with FleetClients(fleet.server_urls, each=2, pause=0.3) as clients:
            self._view.also = lambda: _clients_now(clients)
            await losses.happen(self._seconds)
            await clients.stop()
        self._words, self.went_on, self.killed = clients.words, clients.went_on, losses.killed

    async def _rest(self, database: str) -> None:
        """Wait until every run that was let in has ended."""

        def active() -> bool:
            with look_into(database) as connection:
                return bool(connection.execute("SELECT run_id FROM active_runs LIMIT 1").fetchall())

        try:
            async with asyncio.timeout(_REST_SECONDS):
                while await asyncio.to_thread(active):  # noqa: ASYNC110  # the database does not announce that
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            raise DemoError(f"there are runs that have not ended after {_REST_SECONDS:g} s") from None


def _clients_now(clients: FleetClients) -> Text:
    going = ", ".join(f"{number} {kind}" for kind, number in clients.going.items() if number)
    done, went_on = clients.done.total(), clients.went_on
    return Text.assemble(
        ("clients  ", "dim"), f"{going or 'none at work'}   {done:,} served, {went_on:,} went on to another server"
    )


def run_demo(options: argparse.Namespace) -> int:
    """Run the whole demo; gives its exit code: 1 if anything is wrong."""
    with tempfile.TemporaryDirectory(prefix="trackside-demo-fleet-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            folder.chmod(0o711)  # PostgreSQL then runs as another user, who must be able to reach its own folder
        # Other workers go on with what a lost worker was doing.
        settings = f"{SETTINGS}\n[limits.{AGENT}]\nmax_attempts = {ATTEMPTS}\n"
        (folder / "trackside.toml").write_text(settings, "utf-8")
        with open_view(json=False) as view:
            demo = FleetDemo(options, folder, view)
            asyncio.run(demo.play())
    assert demo.counts is not None
    print_result(standard_output(), demo.counts, demo.wrong, killed=demo.killed, went_on=demo.went_on)
    return 1 if demo.wrong else 0


def main() -> int:
    """Run the demo; gives the exit code. What goes wrong is one line on standard error."""
    # LangGraph's SDK warns like this when it is cut off, which is the point here.
    warnings.filterwarnings("ignore", "Request failed, attempting reconnect")
    warnings.filterwarnings("ignore", "Reconnecting without a Last-Event-ID")
    return exit_code_of(lambda: run_demo(read_options(sys.argv[2:])))
