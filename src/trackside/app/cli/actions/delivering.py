"""The command `deliver`: feeds durable observers and reports on it. Also says what `trackside run` leaves for later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import count, one_line
from trackside.app.cli.leftovers import event_loop
from trackside.app.cli.noticing import saying_waits
from trackside.app.cli.places import home_of, when_there
from trackside.app.cli.stopping import ended_by_stop_signals, interrupt_on_stop_signals
from trackside.app.cli.suggesting import suggest_at
from trackside.app.cli.views.output import OutputConsole, standard_error, standard_output
from trackside.app.command_lines import command_line
from trackside.app.process_name import process_name
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import App, open_store
from trackside.app.wiring.delivering import Deliveries
from trackside.app.wiring.observers import ConfiguredObserver, build_observers
from trackside.app.wiring.projects import enter_project
from trackside.harness.errors import TracksideError
from trackside.harness.types import Json

if TYPE_CHECKING:
    from trackside.app.storage import Store
    from trackside.app.storage.dispatcher import Dispatcher
    from trackside.app.storage.subscriptions import Subscription
    from trackside.app.vitals import FeedStats

_LOOK_SECONDS: Final = 1.0
_IN_HAND_SECONDS: Final = 10.0
"""How long stopping waits for deliveries that are under way."""
_FOR_EVER: Final = 1e9  # seconds


class NothingToDeliverError(TracksideError, LookupError):
    """there is nobody to deliver to: trackside.toml has no observer that is fed from the log (delivery = "durable")."""


def deliver(names: Sequence[str], *, database: str | None, until_idle: bool, json: bool) -> ExitCode:
    """Feed these observers, or all durable ones, until stopped.

    Raises:
        NothingToDeliverError: there is none.
        ArgumentError: a name is not that of a durable observer.
    """
    interrupt_on_stop_signals()
    settings = load_settings({"database.url": database})
    enter_project(settings)
    observers = build_observers(settings)
    console = standard_output()
    with saying_waits(), event_loop() as runner:
        chosen: list[ConfiguredObserver] = []
        try:
            chosen = _chosen(observers, names)
        finally:
            runner.run(_close([observer for observer in observers if observer not in chosen]))
        code = runner.run(
            _deliver(settings, chosen, _Report(console, home_of(settings).flags, json=json), until_idle=until_idle)
        )
    return ended(console, code)


def say_what_is_left(app: App) -> None:
    """Say which observers have not got everything yet, who will deliver it, and which of them refused something."""
    flags = home_of(app.settings).flags
    if left := app.deliveries.left:
        those = ", ".join(one_line(one.name) for one in left)
        why = f" ({one_line(left[0].why)})" if len(left) == 1 and left[0].why else ""
        hint = "; `trackside subscriptions` says why" if len(left) > 1 else ""
        goes_on = "`trackside deliver` continues, as does the next `trackside run`"
        said = f"not everything is delivered yet to {those}{why}: {goes_on}{hint}"
        standard_error().print(suggest_at(flags, said), soft_wrap=True)
    for stats in app.dispatcher.stats():
        if stats.parked_total:
            name, events = one_line(stats.subscription), count(stats.parked_total, "event")
            said = f"{name} did not take {events}, parked now; see `{command_line('parked', name)}`"
            standard_error().print(suggest_at(flags, said), soft_wrap=True)
    for name, failure in app.dispatcher.failures.items():
        standard_error().print(f"nothing is delivered to {one_line(name)}: {one_line(str(failure))}", soft_wrap=True)


def _chosen(observers: Sequence[ConfiguredObserver], names: Sequence[str]) -> list[ConfiguredObserver]:
    durable = [observer for observer in observers if observer.is_durable]
    if not durable:
        raise NothingToDeliverError
    for name in names:
        if name in {observer.name for observer in durable}:
            continue
        why = f"no observer is called {name!r}; fed from the log are {', '.join(found.name for found in durable)}"
        if name in {observer.name for observer in observers}:
            why = f"{name} is live: the process that runs the agents tells it as they go on"
        raise ArgumentError(name="NAME", why=why)
    return [observer for observer in durable if not names or observer.name in names]


async def _close(observers: Sequence[ConfiguredObserver]) -> None:
    """Close observers that are not fed; their descriptions can still be used."""
    await asyncio.gather(*(observer.aclose() for observer in observers))


@asynccontextmanager
async def _store_for(chosen: Sequence[ConfiguredObserver], settings: Settings) -> AsyncGenerator[Store]:
    """The log that feeds them; if it cannot be opened, they are closed."""
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(open_store(settings))
        except BaseException:
            await _close(chosen)
            raise
        yield store


async def _deliver(
    settings: Settings, chosen: Sequence[ConfiguredObserver], report: _Report, *, until_idle: bool
) -> ExitCode:
    stopped = asyncio.Event()
    async with _store_for(chosen, settings) as store:
        async with Deliveries(chosen, store, grace=_IN_HAND_SECONDS) as deliveries:
            watch = _Watch(store, deliveries.dispatcher, report)
            await watch.begin()
            with ended_by_stop_signals(stopped.set, stopped), report.console.watching_reader(stopped.set):
                await _follow(deliveries.dispatcher, store, watch, stopped, until_idle=until_idle)
            if under_way := sum(stats.pending for stats in deliveries.dispatcher.stats()):
                said = f"waiting up to {_IN_HAND_SECONDS:g} s for {count(under_way, 'event')} under way; Ctrl-C leaves them"
                standard_error().print(said, soft_wrap=True)
        return await watch.end(until_idle=until_idle)


async def _follow(
    dispatcher: Dispatcher, store: Store, watch: _Watch, stopped: asyncio.Event, *, until_idle: bool
) -> None:
    """Report what happens until it is time to end."""
    ends: list[asyncio.Task[Any]] = [asyncio.create_task(stopped.wait(), name="trackside-cli-stopped")]
    if until_idle:
        ends.append(asyncio.create_task(_idle(dispatcher, store), name="trackside-cli-idle"))
    try:
        while not any(end.done() for end in ends) and not watch.is_hopeless:
            await asyncio.wait(ends, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            await watch.look()
    finally:
        for end in ends:
            end.cancel()
        await asyncio.wait(ends)
    for end in ends:
        if not end.cancelled():
            end.result()


async def _idle(dispatcher: Dispatcher, store: Store) -> None:
    """Wait until no process has anything left to deliver or to retry, also while the database is away."""
    while not await when_there(lambda: _has_delivered(dispatcher, store), lambda _: None):  # the watch says an outage
        pass


async def _has_delivered(dispatcher: Dispatcher, store: Store) -> bool:
    """Deliver what there is; whether no process has anything left then."""
    report = await dispatcher.drain(_FOR_EVER)
    fed = {*report.delivered, *report.elsewhere}
    active = [one for one in await store.subscriptions.all() if one.name in fed and one.state.value == "active"]
    if any(one.to_retry or (one.behind and one.name in report.elsewhere) for one in active):
        await asyncio.sleep(_LOOK_SECONDS)  # the process that has it goes on, or its lease ends
        return False
    return await store.subscriptions.end() <= report.through


class _Report:
    """Reports one thing about one observer, to a person or a program."""

    def __init__(self, console: OutputConsole, flags: str, *, json: bool) -> None:
        self.console = console
        self._flags = flags  # by which another command finds the same database
        self._json = json

    def say(self, name: str, what: str, text: str, *, style: str | None = None, **facts: Json) -> None:
        """Say it; `what` and `facts` are for programs."""
        if self._json:
            self.console.print_json_lines([{"observer": name, "what": what, **facts}])
        else:
            self.console.print(
                f"{one_line(name)} {one_line(suggest_at(self._flags, text))}", style=style, soft_wrap=True
            )


class _Watch:
    """Watches what a dispatcher does, and reports everything worth knowing, once each."""

    def __init__(self, store: Store, dispatcher: Dispatcher, report: _Report) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._report = report
        self._states: dict[str, str] = {}
        self._parked: dict[str, int] = {}
        self._failing: set[str] = set()
        self._is_away = False

    @property
    def is_hopeless(self) -> bool:
        """Whether this process will feed none of them any more."""
        return len(self._dispatcher.failures) == len(self._dispatcher.stats())

    async def begin(self) -> None:
        """Say where each one begins."""
        for name, standing in (await self._standings()).items():
            text = f"goes on after position {standing.cursor}, {_far(standing.behind)} the end"
            self._report.say(name, "goes_on", text, cursor=standing.cursor, behind=standing.behind)
        await self.look()

    async def look(self) -> None:
        """Say what has changed since the last look."""
        standings = await self._standings()
        for stats in self._dispatcher.stats():
            name = stats.subscription
            if (failure := self._dispatcher.failures.get(name)) is not None:
                self._say_state(name, "not_fed", f"is not fed: {str(failure).rstrip('.')}")
            elif name in standings:
                self._say_failures(stats, standings[name])
                self._say_state(name, *_state_of(stats, standings[name]))

    async def end(self, *, until_idle: bool) -> ExitCode:
        """Say what each one has got, and what is left."""
        await self.look()
        standings = await self._standings()
        for stats in self._dispatcher.stats():
            name, standing = stats.subscription, standings.get(stats.subscription)
            behind, to_retry = (None, None) if standing is None else (standing.behind, standing.to_retry)
            facts: dict[str, Json] = {
                "delivered": stats.handled_total,
                "parked": stats.parked_total,
                "behind": behind,
                "to_retry": to_retry,
            }
            self._report.say(name, "ended", f"got {', '.join(_got(stats, standing))}", **facts)
        parked = until_idle and any(self._parked.values())
        return ExitCode.error if self._dispatcher.failures or parked else ExitCode.success

    async def _standings(self) -> Mapping[str, Subscription]:
        """The state of the subscriptions; nothing while the database is away, which is reported once."""
        from trackside.app.storage.errors import StorageError

        try:
            found = {standing.name: standing for standing in await self._store.subscriptions.all()}
        except StorageError as exc:
            if not exc.retryable:
                raise
            if not self._is_away:
                standard_error().print(f"waiting for the database: {one_line(str(exc))}", soft_wrap=True)
            self._is_away = True
            return {}
        self._is_away = False
        return {name: found[name] for name in (s.subscription for s in self._dispatcher.stats()) if name in found}

    def _say_state(self, name: str, state: str, text: str) -> None:
        if state and self._states.get(name, "active") != state:
            self._report.say(name, state, text, style=None if state == "active" else "yellow")
        if state:
            self._states[name] = state

    def _say_failures(self, stats: FeedStats, standing: Subscription) -> None:
        name, error = stats.subscription, (standing.last_error or "").rstrip(".")
        if (more := stats.parked_total - self._parked.get(name, 0)) > 0:
            self._parked[name] = stats.parked_total
            text = f"did not take {count(more, 'event')}, parked now: {error}; see `{command_line('parked', name)}`"
            self._report.say(name, "parked", text, style="red", events=more, error=error)
        elif standing.failures and name not in self._failing:
            self._report.say(name, "failing", f"fails, and is tried again: {error}", style="yellow", error=error)
            self._failing.add(name)
        elif not standing.failures and name in self._failing:
            self._report.say(name, "recovered", "is delivered to again")
            self._failing.remove(name)


def _state_of(stats: FeedStats, standing: Subscription) -> tuple[str, str]:
    """Who feeds it, in a word and in a sentence; both are empty while that is not known yet."""
    if standing.state.value == "paused":
        return "paused", f"is paused; to resume it: `{command_line('subscriptions', stats.subscription, 'resume')}`"
    if stats.active:
        return "active", "is fed from here"
    # This process may have been given it and not know that yet.
    if standing.consumer not in (None, process_name()):
        return "elsewhere", f"is fed by {standing.consumer}; from here if that stops"
    return "", ""


def _far(behind: int) -> str:
    return f"{count(behind, 'position')} from" if behind else "at"


def _got(stats: FeedStats, standing: Subscription | None) -> Iterator[str]:
    yield count(stats.handled_total, "event")
    if stats.parked_total:
        yield f"{stats.parked_total} parked"
    if standing is None:
        return
    if standing.behind:
        yield f"{count(standing.behind, 'position')} left"
    if standing.to_retry:
        yield f"{standing.to_retry} left to retry"
    if not standing.behind and not standing.to_retry:
        yield "nothing left"
