"""The command `observers`: shows which observers are configured, and which others could be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import one_line
from trackside.app.cli.leftovers import event_loop
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.app.cli.views.tables import Column, print_table
from trackside.app.settings import ObserverSettings, SettingsError, load_settings
from trackside.app.wiring.observer_types import BUILT_IN, installed_plugins
from trackside.app.wiring.observers import ConfiguredObserver, build_observer
from trackside.app.wiring.projects import enter_project
from trackside.harness.types import JsonObject


@dataclass(frozen=True, slots=True)
class _Configured:
    """A table of the settings, and the observer that it makes or why it makes none."""

    settings: ObserverSettings
    observer: ConfiguredObserver | None
    failure: str

    @property
    def delivery(self) -> str:
        if self.observer is None:
            return "?"
        return f"{self.observer.delivery}, required" if self.settings.required else str(self.observer.delivery)

    @property
    def wants(self) -> str:
        events = (self.observer.events if self.observer else self.settings.events) or ()
        agent = self.settings.agent
        return "; ".join(part for part in (", ".join(events), f"agent {agent}" if agent else "") if part) or "all"

    def as_json(self) -> JsonObject:
        made, settings = self.observer, self.settings
        return {
            "configured": settings.name,
            "type": settings.type,
            "delivery": None if made is None else made.delivery.value,
            "required": settings.required,
            "events": None if made is None or made.events is None else [str(kind) for kind in made.events],
            "agent": settings.agent,
            "error": self.failure or None,
        }


@dataclass(frozen=True, slots=True)
class _Available:
    """A type of observer that `type` can name, where it comes from, and what it still needs."""

    name: str
    origin: str
    what: str
    missing_extra: str | None = None

    @property
    def install(self) -> str:
        return f"pip install 'trackside[{self.missing_extra}]'" if self.missing_extra else ""

    def as_json(self) -> JsonObject:
        return {"available": self.name, "from": self.origin, "what": self.what, "missing_extra": self.missing_extra}


def show(*, json: bool) -> ExitCode:
    """Show the observers that the settings name and those that they could name."""
    settings = load_settings()
    enter_project(settings)
    configured = [_try(observer) for observer in settings.observers]
    available = [*_ours(), *_plugins()]
    console = standard_output()
    if json:
        console.print_json_lines([*(one.as_json() for one in configured), *(one.as_json() for one in available)])
    else:
        _print(console, configured, available)
    return ended(console)


def _try(settings: ObserverSettings) -> _Configured:
    """Make an observer, and close it again."""
    try:
        made = build_observer(settings, os.environ)
    except SettingsError as exc:
        return _Configured(settings, None, str(exc).removeprefix(f"{settings.where}").lstrip(".: ").rstrip("."))
    with event_loop() as runner:
        runner.run(made.aclose())
    return _Configured(settings, made, "")


def _ours() -> list[_Available]:
    return [_Available(known.name, "trackside", known.what, known.missing_extra) for known in BUILT_IN.values()]


def _plugins() -> list[_Available]:
    found = []
    for name, points in installed_plugins().items():
        for point in points:
            origin = point.module if point.dist is None else f"{point.dist.name} {point.dist.version}"
            what = "" if point.dist is None else point.dist.metadata.get("Summary", "")
            found.append(_Available(name, origin, what))
    return found


def _print(console: OutputConsole, configured: Sequence[_Configured], available: Sequence[_Available]) -> None:
    if configured:
        columns: list[Column[_Configured]] = [
            Column(title="NAME", cell=lambda one: one_line(one.settings.name)),
            Column(title="TYPE", cell=lambda one: one_line(one.settings.type), rank=2),
            Column(title="DELIVERY", cell=lambda one: one.delivery),
            Column(title="WANTS", cell=lambda one: one_line(one.wants), rank=1, least=12),
            Column(title="WHAT IS WRONG", cell=lambda one: Text(one_line(one.failure), "red"), rank=1, least=20),
        ]
        print_table(console, columns, configured)
    else:
        console.print("No observer is configured; trackside.toml has one in each [[observers]].", style="dim")
    console.print()
    columns_of_types: list[Column[_Available]] = [
        Column(title="AVAILABLE", cell=lambda one: one_line(one.name)),
        Column(title="FROM", cell=lambda one: one_line(one.origin), rank=2),
        Column(title="WHAT FOR", cell=lambda one: one_line(one.what), rank=1, least=16),
        Column(title="TO INSTALL", cell=lambda one: one.install, rank=1),
    ]
    print_table(console, columns_of_types, available)
