"""Makes the observers that the settings name, and says how each of them gets its events.

An observer is made as `Class(**options)` of the keys of its table that are not the wiring's own (`OBSERVER_KEYS`).
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from trackside.app.closing import close_observer
from trackside.app.delivery import FEED_KEYS, Delivery, ObserverOptionError, said_by_class
from trackside.app.masking import without_secrets
from trackside.app.settings import OBSERVER_KEYS, ObserverSettings, Settings
from trackside.app.vitals import HearingEndsObserver, Vitals, WatchingObserver
from trackside.app.wiring.choosing import ChosenEvents, EventChoice
from trackside.app.wiring.observer_types import BUILT_IN, find_observer, why_not_installed
from trackside.harness import ObserverBinding, RunObserver, TracksideError
from trackside.harness.errors import NotAnObserverError
from trackside.harness.foreign.failures import line_of
from trackside.harness.foreign.signatures import signature_of
from trackside.harness.observer import RunLifecycleEvent, ensure_observer
from trackside.harness.types import LifecycleEventType

if TYPE_CHECKING:
    from trackside.app.storage import Store
    from trackside.app.storage.dispatcher import DurableObserver

__all__ = ["ConfiguredObserver", "build_observers"]

logger = logging.getLogger("trackside.wiring")

_CLOSE_SECONDS: Final = 5.0
_FROM_ENVIRONMENT: Final = "env:"
_DURABLE_KEYS: Final = ("start", "on_failure", *FEED_KEYS)
_SCRAPED: Final = ("metrics", BUILT_IN["metrics"].place)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredObserver:
    """An observer that was made, and how it gets its events."""

    settings: ObserverSettings
    observer: RunObserver
    delivery: Delivery
    events: tuple[LifecycleEventType, ...] | None

    @property
    def name(self) -> str:
        """Its name, which no other has."""
        return self.settings.name

    @property
    def is_durable(self) -> bool:
        """Whether it gets its events from the log."""
        return self.delivery is Delivery.durable

    def binding(self) -> ObserverBinding:
        """A live one, as a manager takes it."""
        observer = self.observer
        if self.events is not None or self.settings.agent is not None:
            observer = ChosenEvents(observer, EventChoice(self.events, self.settings.agent))
        return ObserverBinding(observer, self.settings.required, name=self.name)

    def subscribed(self, *, grace: float) -> DurableObserver:
        """A durable one, as a dispatcher takes it; closing waits for `grace` seconds for what it has in hand.

        Raises:
            SettingsError: a value of the table or of its class does not fit.
        """
        from trackside.app.storage.dispatcher import DurableObserver
        from trackside.app.storage.errors import InvalidSubscriptionError
        from trackside.app.storage.feeding import FeedPolicy
        from trackside.app.storage.subscriptions import OnFailure, SubscriptionFilter

        settings = self.settings
        asked = {name: getattr(settings, name) for name in FEED_KEYS}
        asked = {name: value for name, value in asked.items() if value is not None}
        try:
            return DurableObserver(
                name=self.name,
                observer=self.observer,
                filter=SubscriptionFilter.of(types=self.events, agent=settings.agent),
                start="now" if settings.start is None else settings.start,
                on_failure=OnFailure(settings.on_failure or OnFailure.park),
                policy=FeedPolicy.suiting(self.observer, grace=grace, **asked),
            )
        except InvalidSubscriptionError as exc:
            raise settings.complaint(exc.details["field"], f"{exc.details['value']!r}: {exc.details['why']}") from exc

    def watch(self, vitals: Vitals) -> None:
        """Show it how the app does, if it wants to see that.

        Raises:
            SettingsError: it could not take that.
        """
        if isinstance(self.observer, WatchingObserver):
            try:
                self.observer.watch(vitals)
            except ObserverOptionError as exc:  # what only shows when it is used, such as a port that is taken
                raise self.settings.complaint(exc.details["option"], exc.details["why"]) from exc
            except (Exception, SystemExit) as exc:  # the observer's failure, which its author has to see
                raise self.settings.complaint(None, f"its method watch raised {line_of(exc)}") from exc

    def hear_ends(self, store: Store) -> None:
        """Have it hear, if it wants to, of those ends that it wants among all that a store announces for others."""
        observer = self.observer
        if isinstance(observer, HearingEndsObserver) and not self.is_durable:
            store.on_end(partial(_pass_on, EventChoice(self.events, self.settings.agent), observer))

    async def aclose(self) -> None:
        """Close it, if it can be closed, in bounded time; a failure is said in the program's log."""
        await close_observer(self.observer, name=self.name, limit=_CLOSE_SECONDS, logger=logger)


def _pass_on(choice: EventChoice, observer: HearingEndsObserver, event: RunLifecycleEvent) -> None:
    try:
        for wanted in choice.of([event]):
            observer.hear_end(wanted)
    except Exception:  # the observer's failure, which is nobody else's
        logger.exception("an observer could not be told of the end of run %s", event.run_id)


def build_observers(settings: Settings, environ: Mapping[str, str] | None = None) -> list[ConfiguredObserver]:
    """All observers that the settings name. Imports their modules, which may take long; needs no event loop.

    In a child process of a worker, only those that are told by the process that runs agents, and that nobody scrapes.
    Its supervisor has the others, which can be scraped, and feeds them no matter what agents do to this process.

    Raises:
        SettingsError: one of them cannot be made; the message names its table, and the key. Those before it are closed.
    """
    environ = os.environ if environ is None else environ
    built: list[ConfiguredObserver] = []
    try:
        for configured in _wanted_here(settings):
            built.append(build_observer(configured, environ))  # noqa: PERF401  # those that were built have to be known
    except BaseException:
        close_at_once({one.name: one.observer for one in built})
        raise
    return built


def _wanted_here(settings: Settings) -> Iterator[ObserverSettings]:
    is_child = settings.worker.isolated_in is not None
    return (one for one in settings.observers if not is_child or _is_for_children(one))


def _is_for_children(configured: ObserverSettings) -> bool:
    if configured.type in _SCRAPED:
        return False
    return _delivery_of(configured, find_observer(configured)) is Delivery.live


def build_observer(configured: ObserverSettings, environ: Mapping[str, str]) -> ConfiguredObserver:
    """One observer.

    Raises:
        SettingsError: it cannot be made; the message names its table, and the key.
    """
    target = find_observer(configured)
    options = _Options(configured, environ)
    if inspect.isclass(target):
        _check_options(configured, target)
        observer = _make(configured, target, options)
    else:
        for key in configured.options:
            raise configured.complaint(key, f"{configured.type} is not a class, and takes no options")
        observer = _checked(configured, target)
    try:
        return _configured(configured, target, observer)
    except BaseException:
        close_at_once({configured.name: observer})
        raise


def _configured(configured: ObserverSettings, target: Any, observer: RunObserver) -> ConfiguredObserver:
    delivery = _delivery_of(configured, target)
    _check_keys(configured, delivery)
    events = configured.events or _events_of_class(configured, target)
    built = ConfiguredObserver(settings=configured, observer=observer, delivery=delivery, events=events)
    if built.is_durable:
        built.subscribed(grace=0)
    return built


def close_at_once(observers: Mapping[str, RunObserver]) -> None:
    """Close what nobody will use, by name, wherever this is called: in a thread, as a loop may be running here.

    An observer that swallows its cancel is left behind with its loop; `asyncio.run` would wait for it.
    """

    async def close_all() -> None:
        closing = (
            close_observer(observer, name=name, limit=_CLOSE_SECONDS, logger=logger)
            for name, observer in observers.items()
        )
        await asyncio.gather(*closing)

    def run() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(close_all())
        if left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left, timeout=1))
        if not asyncio.all_tasks(loop):
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    if observers:
        thread = Thread(target=run, name="trackside-close-observers")
        thread.start()
        thread.join()


class _Options:
    """The options of a table with what the environment has for them, and a way to speak of them without that."""

    def __init__(self, configured: ObserverSettings, environ: Mapping[str, str]) -> None:
        self._configured = configured
        self._environ = environ
        self._shown: dict[str, str] = {}
        self.values: dict[str, Any] = {key: self._value(key, value) for key, value in configured.options.items()}

    def _value(self, key: str, value: Any) -> Any:
        match value:
            case dict():
                return {name: self._value(f"{key}.{name}", inner) for name, inner in value.items()}
            case list():
                return [self._value(f"{key}[{number}]", inner) for number, inner in enumerate(value, 1)]
            case str() if value.startswith(_FROM_ENVIRONMENT):
                variable = value.removeprefix(_FROM_ENVIRONMENT)
                if variable not in self._environ:
                    raise self._configured.complaint(key, f"the environment has no variable {variable or '(no name)'}")
                found = self._environ[variable]
                self._shown |= {found: value, repr(found)[1:-1]: value}
                return found
            case _:
                return value

    def masked(self, text: str) -> str:
        """A message in which what the environment has, which may be secret, reads as it is written in the file."""
        return without_secrets(text, self._shown)


def _make(configured: ObserverSettings, target: Callable[..., Any], options: _Options) -> RunObserver:
    try:
        made = target(**options.values)
    except ObserverOptionError as exc:
        raise configured.complaint(exc.details["option"], options.masked(exc.details["why"])) from exc
    except ImportError as exc:
        why = why_not_installed(exc, BUILT_IN.get(configured.type)) or line_of(exc)
        raise configured.complaint(None, options.masked(why)) from exc
    except (TracksideError, TypeError, ValueError) as exc:
        raise configured.complaint(None, options.masked(str(exc).rstrip(".") or repr(exc))) from exc
    except (Exception, SystemExit) as exc:  # its author's to see, as what he writes in a message of his own is
        raise configured.complaint(None, options.masked(f"{configured.type} raised {line_of(exc)}")) from exc
    return _checked(configured, made)


def _checked(configured: ObserverSettings, made: Any) -> RunObserver:
    if made is None:
        raise configured.complaint("type", f"{configured.type} is None, and no observer")
    try:
        return ensure_observer(made)
    except NotAnObserverError as exc:
        raise configured.complaint("type", str(exc).rstrip(".")) from exc


def _check_options(configured: ObserverSettings, target: type) -> None:
    """See that there is an option for each key, and a key for each option that has no default."""
    if not callable(getattr(target, "on_event", None)):
        why = f"{configured.type} is no observer: it has no method on_event"
        raise configured.complaint("type", why)
    try:
        parameters = [*signature_of(target).parameters.values()]
    except (TypeError, ValueError):  # a class that was not written in Python
        return
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = [p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    known = [parameter.name for parameter in named if parameter.name not in OBSERVER_KEYS]
    for key in configured.options:
        if key not in known and not takes_any:
            raise configured.complaint(key, _unknown(configured, key, known))
    for parameter in named:
        if parameter.default is not parameter.empty or parameter.name in configured.options:
            continue
        why = f"it is missing, and {configured.type} needs it"
        if parameter.name in OBSERVER_KEYS:
            why = f"{configured.type} needs it, but never gets it: this key says how an observer is told of events"
        raise configured.complaint(parameter.name, why)


def _unknown(configured: ObserverSettings, key: str, known: Sequence[str]) -> str:
    if near := difflib.get_close_matches(key, [*known, *OBSERVER_KEYS], 1, 0.6):
        return f"there is no such key; did you mean {near[0]}?"
    options = f"the options {', '.join(known)}" if known else "no options"
    return f"there is no such key; {configured.type} takes {options}; all observers have {', '.join(sorted(OBSERVER_KEYS))}"


def _delivery_of(configured: ObserverSettings, target: Any) -> Delivery:
    said: Any = configured.delivery or getattr(target, "delivery", Delivery.live)
    try:
        return Delivery(said)
    except ValueError:
        why = f"{configured.type} says {said!r}, which is neither live nor durable; say it here"
        raise configured.complaint("delivery", why) from None


def _check_keys(configured: ObserverSettings, delivery: Delivery) -> None:
    """See that no key is set that means nothing for this delivery."""
    if delivery is Delivery.durable:
        if configured.required:
            why = (
                "no run can wait for it: its delivery is durable, so it gets events from the log, after they are stored, "
                'and misses none; leave this out, or say delivery = "live"'
            )
            raise configured.complaint("required", why)
        return
    for key in _DURABLE_KEYS:
        if getattr(configured, key) is not None:
            why = 'it is for observers that are fed from the log: say delivery = "durable", or leave this out'
            raise configured.complaint(key, why)


def _events_of_class(configured: ObserverSettings, target: Any) -> tuple[LifecycleEventType, ...] | None:
    """The events that the class asks for, unless what it calls `events` is something else."""
    said = said_by_class(target if inspect.isclass(target) else type(target), "events")
    if said is None:
        return None
    try:
        asked = tuple(map(LifecycleEventType, said))
    except (TypeError, ValueError):
        asked = ()
    if not asked:
        why = f"{configured.type} says {said!r:.80}, which is no list of types of events; say it here"
        raise configured.complaint("events", why)
    return asked
