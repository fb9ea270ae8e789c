"""Shows a fleet on this machine: a live screen on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final, Self, override

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trackside.app.cli.formatting import count, duration, json_line, one_line
from trackside.app.cli.serving.fleet_watch import FleetNow
from trackside.app.cli.views.appearance import RUN_LOOKS, Look
from trackside.app.cli.views.live import LiveLines
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.harness.types import Json, JsonObject

if TYPE_CHECKING:
    from trackside.app.engine.local import FleetPlan, Happening, LocalFleet, Member

_HAPPENINGS: Final = 8
_WORK_EVERY: Final = 5.0  # seconds between two lines about the work
_STATES: Final[Mapping[str, Look]] = {
    "starting": Look("◌", ".", "starting", "dim"),
    "up": Look("▸", ">", "up", "green"),
    "down": Look("✗", "x", "down", "red"),
    "stopping": Look("◌", ".", "stopping", "yellow"),
    "stopped": Look("■", "#", "stopped", "dim"),
}


_HEALTH: Final[Mapping[str, str]] = {"ready": "green", "degraded": "yellow", "unready": "red"}


class FleetLines:
    """Lines, if there is no terminal: what happens and, now and then, how much work there is."""

    def __init__(self, console: OutputConsole) -> None:
        self.console = console
        self._said = ""
        self._said_at = -_WORK_EVERY
        self.also: Callable[[], Text] | None = None
        """Returns what else there is to say about the work."""

    def begin(self, plan: FleetPlan) -> None:
        """Say what is about to be started."""
        self._print(Text(f"A fleet on this machine: {_parts(plan)}; in {plan.folder}", "bold"))

    def say_up(self, fleet: LocalFleet, agent: str, *, keys: bool) -> None:
        """Say how to talk to the fleet and to this agent of it, now that it is up; with `keys`, it asks for a key."""
        for line in _how_to_talk(fleet, agent, keys=keys):
            self._print(line)

    def say(self, words: str) -> None:
        """Say what is being done."""
        self._print(Text(words, "yellow"))

    def happened(self, happening: Happening) -> None:
        """Say what has happened to a process."""
        self._print(_told(happening))

    def show(self, now: FleetNow) -> None:
        """Show how the fleet is now."""
        words = _work(now).plain
        if words != self._said and monotonic() - self._said_at >= _WORK_EVERY:
            self._said, self._said_at = words, monotonic()
            also = "" if self.also is None else f"; {self.also().plain}"
            self._print(Text(f"{now.at.astimezone():%H:%M:%S} {words}{also}"))

    def watching_reader(self, on_gone: Callable[[], object]) -> AbstractContextManager[None]:
        """Call `on_gone` when nobody is reading the output any more, while a `with` block on the running loop lasts."""
        return self.console.watching_reader(on_gone)

    def check(self) -> None:
        """Check that all output was written.

        Raises:
            OutputError: it could not be written.
        """
        self.console.check()

    def _print(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)


class FleetScreen(FleetLines):
    """A live table on a terminal, with the latest events below it."""

    def __init__(self, console: OutputConsole) -> None:
        super().__init__(console)
        self._now: FleetNow | None = None
        self._happenings: deque[Happening] = deque(maxlen=_HAPPENINGS)
        self._live = LiveLines(console, self._draw)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._now is not None:
            self.console.print(self._draw())

    @override
    def happened(self, happening: Happening) -> None:
        self._happenings.append(happening)

    @override
    def show(self, now: FleetNow) -> None:
        self._now = now

    def _draw(self) -> RenderableType:
        happenings = [_told(one) for one in list(self._happenings)]
        if self._now is None:
            return Group(*happenings)
        also = [] if self.also is None else [self.also()]
        return Group(Text(), self._members(self._now), Text(), _work(self._now), *also, Text(), *happenings)

    def _members(self, now: FleetNow) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("PROCESS", "STATE", "HEALTH", "PID", "PORT", "RUNS", "STARTED AGAIN", "FOR"):
            right = title in {"PID", "PORT", "RUNS", "STARTED AGAIN", "FOR"}
            table.add_column(title, justify="right" if right else "left", no_wrap=True)
        for member in now.members:
            look = _STATES[member.state]
            running = now.running.get(member.pid or 0, 0) if member.kind == "worker" else None
            table.add_row(
                member.name,
                Text(f"{self.console.symbol(look)} {look.label}", look.style),
                Text(health := now.health.get(member.name, ""), _HEALTH.get(health, "")),
                str(member.pid or ""),
                str(member.port or ""),
                "" if running is None else str(running),
                Text(str(member.restarts or ""), "yellow"),
                Text(duration((now.at - member.since).total_seconds()), "dim"),
            )
        return table


class JsonFleet(FleetLines):
    """JSON lines: one when everything is up, one for each event, and one each time the work has changed."""

    @override
    def begin(self, plan: FleetPlan) -> None:
        pass

    @override
    def say_up(self, fleet: LocalFleet, agent: str, *, keys: bool) -> None:
        members: list[Json] = [_as_json(member) for member in fleet.members]
        self._put({"up": {"urls": list(fleet.server_urls), "processes": members}})

    @override
    def say(self, words: str) -> None:
        self._put({"says": words})

    @override
    def happened(self, happening: Happening) -> None:
        told: JsonObject = {"at": happening.at.isoformat(), "process": happening.member, "what": happening.what}
        self._put({"happened": told})

    @override
    def show(self, now: FleetNow) -> None:
        work: JsonObject = {
            "ready": now.ready,
            "waiting": now.waiting,
            "delayed": now.delayed,
            "executing": now.executing,
            "ended": {str(status): number for status, number in now.ended.items()},
            "why_unknown": now.why_unknown,
        }
        processes: list[Json] = [
            {**_as_json(one), "running": now.running.get(one.pid or 0, 0), "health": now.health.get(one.name)}
            for one in now.members
        ]
        if (words := json_line({"work": work, "processes": processes})) != self._said:
            self._said = words
            self._put({"now": {"at": now.at.isoformat(), **work, "processes": processes}})

    def _put(self, value: JsonObject) -> None:
        self.console.print_json_lines([value])


@contextmanager
def open_view(*, json: bool) -> Generator[FleetLines]:
    """The view that suits where standard output goes."""
    console = standard_output()
    if json:
        yield JsonFleet(console)
    elif console.is_live:
        with FleetScreen(console) as screen:
            yield screen
    else:
        yield FleetLines(console)


def _parts(plan: FleetPlan) -> str:
    stores = "PostgreSQL and NATS" if plan.engine == "nats" else "PostgreSQL"
    return f"{stores}, {count(plan.servers, 'server')}, {count(plan.workers, 'worker')}"


def _how_to_talk(fleet: LocalFleet, agent: str, *, keys: bool) -> Iterator[Text]:
    urls = fleet.server_urls
    yield Text()
    yield Text.assemble(("  servers  ", "dim"), ("  ".join(urls), "bold"), "   (any of them, for any run)")
    yield Text.assemble(("  console  ", "dim"), f"{urls[0]}/ui")
    yield Text.assemble(("  API      ", "dim"), f"{urls[0]}/docs")
    if keys:
        make = f'TRACKSIDE_DATABASE_URL="{fleet.shell_database_url}" trackside auth create NAME'
        yield Text.assemble(("  keys     ", "dim"), make)
        yield Text("           export TRACKSIDE_API_KEY=…   # what that has written")
    yield Text.assemble(("  ask      ", "dim"), "from langgraph_sdk import get_sync_client")
    key = ', api_key="…"' if keys else ""
    yield Text(f'           client = get_sync_client(url="{urls[0]}"{key})')
    yield Text(f"           client.runs.wait(None, {agent!r}, input={{…}})")
    yield Text.assemble(("  look     ", "dim"), f"trackside workers --url {urls[0]}")
    yield Text.assemble(("  end      ", "dim"), "Ctrl-C lets runs end, and stops all in turn")


def _told(happening: Happening) -> Text:
    style = "red" if happening.is_bad else ""
    words = f"{happening.member} {one_line(happening.what)}"
    return Text.assemble((f"{happening.at.astimezone():%H:%M:%S} ", "dim"), (words, style))


def _work(now: FleetNow) -> Text:
    """What waits, what is being executed, and what has ended."""
    if now.why_unknown is not None:
        return Text(f"the database does not answer: {one_line(now.why_unknown)}", "red")
    parts = [f"{now.ready:,} ready", f"{now.waiting:,} waiting", f"{now.delayed:,} delayed"]
    text = Text.assemble(("runs  ", "dim"), ", ".join(parts), (f"   {now.executing:,} executed now", "cyan"))
    text.append(f"   {sum(now.ended.values()):,} ended")
    for status, number in now.ended.items():
        text.append(f"  {number:,} {RUN_LOOKS[status].label}", RUN_LOOKS[status].style)
    return text


def _as_json(member: Member) -> JsonObject:
    return {
        "name": member.name,
        "kind": str(member.kind),
        "state": str(member.state),
        "pid": member.pid,
        "port": member.port,
        "restarts": member.restarts,
    }
