"""The tables `[[observers]]`: which further observers are told, and how.

The observers themselves define the other keys.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

from trackside.app.delivery import OUR_SUBSCRIPTIONS, Delivery, Order
from trackside.app.settings._values import parse_count, parse_seconds, parse_text
from trackside.app.settings.errors import SettingsError
from trackside.harness.types import LifecycleEventType

type Start = Literal["now", "beginning"] | int

_LONGEST_NAME = 255  # characters
_LONGEST_REASON = 1_000  # characters
_KEPT_OF_REASON = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverSettings:
    """One of the tables `[[observers]]`. None leaves a value to the observer's class, or to a default."""

    type: str
    """Which observer it is: a known name, or where its class is, `package.module:Class` or `path/file.py:Class`."""
    name: str
    """The name of the observer, its subscription and its buffer; no other observer may have it."""
    where: str
    """The table, as messages name it: `trackside.toml, observers[2] (webhook)`, counted from 1."""
    delivery: Delivery | None = None
    """Whether the observer is told by the process that runs agents, as things happen (`live`), or from the database, at
    least once (`durable`)."""
    required: bool = False
    """Whether runs depend on it: no run goes on without it."""
    events: tuple[LifecycleEventType, ...] | None = None
    """The observer gets only events of these types."""
    agent: str | None = None
    """The observer gets only events of this agent's runs."""
    start: Start | None = None
    """Durable only: the event with which the observer begins, the first time."""
    order: Order | None = None
    """Durable only: what has to be over before the next event: the event before (`log`), the event before in the
    same run (`run`), or nothing (`none`)."""
    concurrency: int | None = None
    """Durable only: how many of its calls may be under way at once, if its order is not that of the log."""
    on_failure: str | None = None
    """Whether an event that keeps failing is parked, or blocks those after it."""
    attempts: int | None = None
    """Durable only: how many times an event is tried before it is parked."""
    longest_pause: float | None = None
    """The longest pause between two tries, in seconds."""
    call_limit: float | None = None
    """Durable only: how many seconds one call may take. After that it is cancelled, and has failed."""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """The arguments of its constructor, as they stand in the file: `env:NAME` is not looked up yet."""

    def complaint(self, key: str | None, why: str) -> SettingsError:
        """The error to raise about this table, or a key of it."""
        return SettingsError(where=self.where if key is None else f"{self.where}.{key}", why=_shortened(why))


def read_observers(tables: Any, source: str) -> tuple[ObserverSettings, ...]:
    """What the tables say.

    Raises:
        SettingsError: a table has no type, a value does not fit, two have one name, or one has a name that is taken; the
            message names the key.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(where=f"{source}, observers", why="each begins with [[observers]], in two brackets")
    found = tuple(_read(table, f"{source}, observers[{number}]") for number, table in enumerate(tables, 1))
    first_of: dict[str, ObserverSettings] = {}
    for observer in found:
        if observer.name in OUR_SUBSCRIPTIONS:
            why = f"the server itself has a subscription of this name; give it another one: name = {observer.name + '-2'!r}"
            raise observer.complaint("name", why)
        first = first_of.setdefault(observer.name, observer)
        if first is not observer:
            why = f"{first.where} has this name, too; say what to call each of them: name = {observer.name + '-2'!r}"
            raise observer.complaint("name", why)
    return found


def _read(table: Mapping[str, Any], where: str) -> ObserverSettings:
    if "type" not in table:
        raise SettingsError(where=where, why='type is missing; write which observer it is, as type = "webhook"')
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in table.items():
        parse = _PARSERS.get(name)
        if parse is None:
            options[name] = value
            continue
        try:
            values[name] = parse(value)
        except ValueError as exc:
            raise SettingsError(where=f"{_named(where, values)}.{name}", why=_shortened(str(exc))) from None
    values.setdefault("name", values["type"])
    return ObserverSettings(where=_named(where, values), options=MappingProxyType(options), **values)


def _shortened(why: str) -> str:
    """The beginning and the end of what is wrong, if a value that it quotes is long."""
    return why if len(why) <= _LONGEST_REASON else f"{why[:_KEPT_OF_REASON]} … {why[-_KEPT_OF_REASON:]}"


def _named(where: str, values: Mapping[str, Any]) -> str:
    """The table with its name, as far as that is known."""
    name = values.get("name", values.get("type"))
    return where if name is None else f"{where} ({name})"


def one_of(kinds: type[StrEnum] | Collection[str], value: Any) -> str:
    """A value that is one of these.

    Raises:
        ValueError: it is none; the message says which there are.
    """
    if isinstance(value, str) and value in [*kinds]:
        return value
    near = difflib.get_close_matches(str(value), kinds, 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(kinds)}"
    raise ValueError(f"{value!r} is not known; {hint}")


def _named_text(value: Any) -> str:
    text = parse_text(value)
    if not 0 < len(text) <= _LONGEST_NAME or not text.isprintable():
        raise ValueError(f"{value!r} is not a name: a text of 1 to {_LONGEST_NAME} characters on one line")
    return text


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is neither true nor false")


def _events(value: Any) -> tuple[LifecycleEventType, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f'{value!r} is not a list of types of events; write ["run_completed", "run_failed"]')
    return tuple(LifecycleEventType(one_of([*LifecycleEventType], kind)) for kind in dict.fromkeys(map(_plain, value)))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _start(value: Any) -> Start:
    if value in ("now", "beginning") or (type(value) is int and value >= 0):
        start: Start = value
        return start
    raise ValueError(f'{value!r} is not "now", "beginning", or the position after which to begin')


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "type": _named_text,
    "name": _named_text,
    "delivery": lambda value: Delivery(one_of(Delivery, value)),
    "required": _flag,
    "events": _events,
    "agent": _named_text,
    "start": _start,
    "order": lambda value: Order(one_of(Order, value)),
    "concurrency": parse_count,
    "on_failure": lambda value: one_of(("park", "block"), value),
    "attempts": parse_count,
    "longest_pause": parse_seconds,
    "call_limit": parse_seconds,
}

OBSERVER_KEYS = frozenset(_PARSERS)
"""The keys of a table that are not its observer's own."""
