"""The command `fleet up`: a whole fleet on this machine, from its first process to its last."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.failures import ExitCode
from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.serving.agents import with_agents
from trackside.app.cli.serving.fleet_views import FleetLines, open_view
from trackside.app.cli.serving.fleet_watch import FleetWatch
from trackside.app.cli.stopping import interrupt_on_stop_signals, stop_signals
from trackside.app.settings import Settings, load_settings
from trackside.app.storage import Store
from trackside.harness.errors import TracksideError

if TYPE_CHECKING:
    from trackside.app.engine.local import FleetPlan, LocalFleet


class NoFleetHereError(TracksideError):
    """a whole fleet on one machine needs Linux or macOS; on Windows, use WSL."""


_MOST_PROCESSES: Final = 64
_LAST_PORT: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What was typed."""

    agents: Sequence[str]
    workers: int
    servers: int
    engine: Literal["nats", "postgres"]
    first_port: int | None
    data: Path | None
    json: bool

    def check(self) -> Settings:
        """Check that this is possible, and return the settings with the agents to serve.

        Raises:
            ArgumentError: it is not possible.
            SettingsError, AgentReferenceError, NoAgentsError: there is nothing to serve.
        """
        for name, number in (("--workers", self.workers), ("--servers", self.servers)):
            if number > _MOST_PROCESSES:
                raise ArgumentError(
                    name=name, why=f"{number:,} are too many for one machine; at most {_MOST_PROCESSES}"
                )
        if self.first_port is not None and self.first_port + self.servers - 1 > _LAST_PORT:
            raise ArgumentError(name="--port", why=f"ports go up to {_LAST_PORT:,}")
        # The fleet brings its own engine: one in the settings would ask for a database, which the fleet brings, too.
        return with_agents(load_settings({"engine.url": "inline"}), self.agents)


def up(options: UpOptions) -> ExitCode:
    """Run a fleet until a signal says to stop.

    Raises:
        TracksideError: there cannot be one.
    """
    if sys.platform == "win32":
        raise NoFleetHereError
    interrupt_on_stop_signals()
    settings = options.check()
    with ExitStack() as stack:
        view = stack.enter_context(open_view(json=options.json))
        folder = stack.enter_context(_folder(options.data))
        run_loop(_live, plan_of(options, settings, folder), view, settings)
    view.check()
    return ExitCode.success


def plan_of(options: UpOptions, settings: Settings, folder: Path) -> FleetPlan:
    """What to start; the processes also read the settings themselves.

    Raises:
        SettingsError: runs should have processes of their own, but cannot have them on this system.
    """
    from trackside.app.cli.serving.worker import with_places
    from trackside.app.engine.local import FleetPlan

    worker = with_places(settings).worker
    return FleetPlan(
        folder=folder,
        kept=options.data is not None,
        agents=options.agents,
        servers=options.servers,
        workers=options.workers,
        children=worker.concurrency if worker.isolation == "process" else 0,
        engine=options.engine,
        # An agent may have a pool that workers do not have by default, and no other workers are there for its runs.
        pools=sorted({*worker.pools, *map(settings.pool_of, settings.agents)}),
        first_port=options.first_port,
    )


async def _live(plan: FleetPlan, view: FleetLines, settings: Settings) -> None:
    from trackside.app.engine.local import LocalFleet

    async with LocalFleet(plan, view.happened) as fleet:
        with _stops(fleet, view) as asked:
            view.begin(plan)
            if await _unless(asked, fleet.start_stores()):
                await _live_on_stores(fleet, view, settings, asked)
            await fleet.stop_stores()


async def _live_on_stores(fleet: LocalFleet, view: FleetLines, settings: Settings, asked: asyncio.Event) -> None:
    # The first to open a database makes its tables: better one process than all at once.
    async with Store.open(fleet.database_url) as store, FleetWatch(fleet, store, view.show):
        if await _unless(asked, fleet.start_processes()):
            view.say_up(fleet, next(iter(settings.agents)), keys=settings.access.auth == "keys")
            with view.watching_reader(asked.set):
                await asked.wait()
        await fleet.drain()


async def _unless(asked: asyncio.Event, awaitable: Coroutine[Any, Any, None]) -> bool:
    """Await something unless somebody asks to stop; returns whether it was done."""
    doing = asyncio.create_task(awaitable, name="trackside-fleet-start")
    stopping = asyncio.create_task(asked.wait(), name="trackside-fleet-stop")
    await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not doing.done():
        doing.cancel()
        await asyncio.wait({doing})
        return False
    doing.result()
    return not asked.is_set()


@contextmanager
def _stops(fleet: LocalFleet, view: FleetLines) -> Generator[asyncio.Event]:
    """Give an event that is set when somebody asks to stop. The second time, all hurry; the third, all are killed."""
    asked, times = asyncio.Event(), 0
    steps: Sequence[tuple[str, Callable[[], object]]] = (
        ("stopping: runs that have begun may end; again to cancel them", asked.set),
        ("stopping quickly; again to kill what is left", fleet.hurry),
        ("killing what is left", fleet.kill),
    )

    def take(number: int) -> None:
        nonlocal times
        if times and number == getattr(signal, "SIGHUP", None):  # it comes more than once by itself
            return
        words, step = steps[min(times, len(steps) - 1)]
        times += 1
        view.say(words)
        step()

    loop, before = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in stop_signals()}
    for number in before:
        loop.add_signal_handler(number, take, number)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def _folder(typed: Path | None) -> Generator[Path]:
    """The folder in which the fleet keeps its data.

    Raises:
        DataFolderError: it cannot be made.
    """
    from trackside.app.engine.local import DataFolderError

    if typed is not None:
        try:
            typed.mkdir(parents=True, exist_ok=True)
            is_anothers = any(typed.iterdir()) and not (typed / "lock").exists()
        except OSError as exc:
            raise DataFolderError(folder=typed, why=exc.strerror) from exc
        if is_anothers:
            raise DataFolderError(folder=typed, why="there is something else in it; name an empty one, or a fleet's")
        yield typed.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="trackside-fleet-"))
    try:
        if os.geteuid() == 0:
            folder.chmod(0o711)  # PostgreSQL then runs as another user, who must be able to reach its own folder
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
