"""Finds what the `type` of an observer names: one of ours, a plugin's, or an object in a module of the user's.

A plugin is a package with an entry point in the group `trackside.observers`. It does nothing until an observer of its name
is configured. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from trackside.app.settings import ObserverSettings, SettingsError
from trackside.app.wiring.agents import (
    AgentImportError,
    AgentReference,
    AgentReferenceError,
    Wanted,
    load_object,
)
from trackside.harness.errors import NotAnObserverError
from trackside.harness.observer import ensure_observer

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "trackside.observers"
"""Where plugins name their observers."""


class ObserverImportError(SettingsError):
    """{where}: {why}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """An observer of ours: where it is, what it is for, and which extras bring what it imports (any one of them)."""

    name: str
    place: str
    what: str
    packages: dict[str, tuple[str, ...]]
    """What it has to be able to import, by extra; nothing where it works without."""

    @property
    def missing_extra(self) -> str | None:
        """The extra to install before it can be used; None if it can be."""
        lacking = [extra for extra, packages in self.packages.items() if not all(map(_is_installed, packages))]
        return lacking[0] if lacking and len(lacking) == len(self.packages) else None


_OURS: Final = "trackside.app.observers"

BUILT_IN: Final = {
    known.name: known
    for known in (
        BuiltIn(
            name="metrics",
            place=f"{_OURS}.metrics:MetricsObserver",
            what="numbers for Prometheus",
            packages={"metrics": ("prometheus_client",)},
        ),
        BuiltIn(
            name="tracing",
            place=f"{_OURS}.tracing:TracingObserver",
            what="a trace of each run, by OpenTelemetry",
            packages={"otel": ("opentelemetry.trace",)},
        ),
        BuiltIn(
            name="logging",
            place=f"{_OURS}.logging:LoggingObserver",
            what="a line of the program's log for each event",
            packages={},
        ),
        BuiltIn(
            name="webhook",
            place=f"{_OURS}.webhook:WebhookObserver",
            what="a signed HTTP request for each event",
            packages={"webhook": ("aiohttp", "standardwebhooks", "cloudevents")},
        ),
        BuiltIn(
            name="notify",
            place=f"{_OURS}.notify:NotifyObserver",
            what="mails and messages to people",
            packages={"notify": ("apprise",)},
        ),
        BuiltIn(
            name="broker",
            place=f"{_OURS}.broker:BrokerObserver",
            what="a message for each event, on NATS JetStream or a Redis stream",
            packages={"nats": ("nats",), "redis": ("redis",)},
        ),
        BuiltIn(
            name="openlineage",
            place=f"{_OURS}.openlineage:OpenLineageObserver",
            what="runs beside other jobs in a lineage server",
            packages={"openlineage": ("openlineage.client",)},
        ),
    )
}


def installed_plugins() -> dict[str, list[EntryPoint]]:
    """What plugins offer, by name; both, where two packages have a name. A name of ours is not theirs to take."""
    from importlib.metadata import entry_points  # takes 15 ms, and most need no plugin

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = found.setdefault(point.name, [])
        if point.value not in {other.value for other in same} and point.name not in BUILT_IN:
            same.append(point)
    return {name: points for name, points in sorted(found.items()) if points}


def find_observer(configured: ObserverSettings) -> Any:
    """The class, the observer or the function that the table's `type` names. Importing it may take long.

    Raises:
        SettingsError: there is no such observer, or a package that it needs is missing.
        ObserverImportError: the code of its module failed, with what it raised as the cause.
    """
    name = configured.type
    if name in BUILT_IN:
        return _import_ours(configured, BUILT_IN[name])
    if ":" in name or name.endswith(".py") or "/" in name:
        return _import_users(configured)
    points = installed_plugins().get(name, [])
    if not points:
        raise configured.complaint("type", f"no observer is called {name!r}; {''.join(_what_there_is(name))}")
    if len(points) > 1:
        packages = " and ".join(sorted(_package_of(point) for point in points))
        raise configured.complaint("type", f"{name!r} is in {packages}; write which as package.module:Class")
    return _import_plugins(configured, points[0])


def why_not_installed(missing: ImportError, known: BuiltIn | None) -> str | None:
    """What to install where a package is missing; None if that is not what is wrong."""
    if not isinstance(missing, ModuleNotFoundError) and "pip install" not in str(missing):
        return None
    if "pip install" in str(missing):
        return str(missing).rstrip(".")
    package = (missing.name or "").partition(".")[0]
    for extra, packages in known.packages.items() if known else ():
        if package in {name.partition(".")[0] for name in packages}:
            return f"it needs {package}, which is not installed: pip install 'trackside[{extra}]'"
    return None


def _import_ours(configured: ObserverSettings, known: BuiltIn) -> Any:
    module, _, attribute = known.place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as exc:
        why = why_not_installed(exc, known)
        if why is None:
            raise
        raise configured.complaint("type", why) from exc


def _import_users(configured: ObserverSettings) -> Any:
    try:
        reference = AgentReference.parse(configured.type, {})
        return load_object(reference, Wanted(is_one=_may_observe, if_there_is_none="nothing in it takes events"))
    except AgentReferenceError as exc:
        raise configured.complaint("type", str(exc.details["why"])) from exc
    except AgentImportError as exc:
        why = f"{configured.type} cannot be loaded: importing {exc.details['module']} raised {exc.details['cause']}"
        raise ObserverImportError(where=f"{configured.where}.type", why=why) from exc.__cause__


def _import_plugins(configured: ObserverSettings, point: EntryPoint) -> Any:
    try:
        return point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # whatever a plugin's module does when imported is its author's to see
        cause = traceback.format_exception_only(exc)[-1].strip()
        why = f"{point.value} of {_package_of(point)} cannot be loaded: {cause}"
        raise ObserverImportError(where=f"{configured.where}.type", why=why) from exc


def _may_observe(value: Any) -> bool:
    """Whether this looks like something to configure: a class or object with `on_event`, or an async function."""
    if inspect.isclass(value):
        return callable(getattr(value, "on_event", None))
    try:
        return (hasattr(value, "on_event") or inspect.iscoroutinefunction(value)) and bool(ensure_observer(value))
    except NotAnObserverError:
        return False


def _what_there_is(name: str) -> Iterator[str]:
    known = [*BUILT_IN, *installed_plugins()]
    near = difflib.get_close_matches(name, known, 1, 0.6)
    yield f"did you mean {near[0]}? There" if near else "there"
    yield f" are {', '.join(known)}; one of your own is package.module:Class or path/file.py:Class"


def _package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package that this is in
        return False
