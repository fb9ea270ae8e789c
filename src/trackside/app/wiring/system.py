"""What a server may say of what it was assembled from: its settings without secrets, its spool, what the doctor finds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from trackside.app.server.system import Found, Setting, Surroundings, SystemSources
from trackside.app.settings import Settings
from trackside.app.spool.standing import SpoolStanding, look_into
from trackside.app.wiring.doctor import examine_running
from trackside.app.wiring.spooling import spool_folder

_HIDDEN: Final = "…"
_SECRETS: Final = frozenset({"server.jwt_key", "server.webhook_secret"})
_IN_ADDRESS: Final = re.compile(r"(://[^/?#@:]*:)[^/?#@]*(?=@)|(?<=\?).*")


def system_sources(settings: Settings) -> SystemSources:
    """What a server with these settings says of itself, wherever its agents go: what a path leads to now is meant."""
    return SystemSources(
        database=settings.database_shown,
        spool=str(spool_folder(settings)),
        settings=dict(sorted(_shown(settings))),
        look=partial(_look, _in_place(settings)),
    )


def _in_place(settings: Settings) -> Settings:
    """The same settings, with whole paths where the folder in which the process works matters."""
    url, spool = settings.database_url, settings.database_spool
    if settings.sqlite_file is not None:
        url = f"sqlite:///{Path(settings.sqlite_file).absolute()}"
    if spool is not None:
        spool = str(Path(spool).expanduser().absolute())
    return replace(settings, database_url=url, database_spool=spool)


def _look(settings: Settings) -> Surroundings:
    findings = [
        Found(finding.severity.value, finding.what, finding.where, finding.fix) for finding in examine_running(settings)
    ]
    spool: SpoolStanding | None
    try:
        spool = look_into(spool_folder(settings))
    except OSError:  # which is among the findings
        spool = None
    return Surroundings(spool, findings)


def _shown(settings: Settings) -> Iterator[tuple[str, Setting]]:
    sources = settings.sources
    for key, value in _values(settings):
        yield key, Setting(_without_secrets(key, value), sources.get(key))
    for observer in settings.observers:
        # Nobody here knows what an option is: it may be a token, or an address with one in it.
        table = {"type": observer.type, "options": sorted(observer.options)}
        yield f"observers.{observer.name}", Setting(table, observer.where)


def _without_secrets(key: str, value: Any) -> Any:
    if key in _SECRETS and value is not None:
        return _HIDDEN
    return _IN_ADDRESS.sub(rf"\1{_HIDDEN}", value) if isinstance(value, str) and "://" in value else value


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """All keys and their values, including those that nobody has set."""
    yield "database.url", settings.database_shown
    yield "database.spool", settings.database_spool
    yield "database.spool_size", settings.database_spool_size
    yield "checkpoints.saver", settings.checkpoints_saver
    yield "runs.max_running", settings.max_running
    yield "runs.shutdown_grace", settings.shutdown_grace
    yield "runs.redact", settings.redact
    yield from _fields("runs", asdict(settings.stopping))
    yield from _fields("limits", asdict(settings.default_limits))
    yield from _fields("server", asdict(settings.server))
    yield from _fields("server", asdict(settings.access))
    yield from _fields("engine", {**asdict(settings.engine), "url": settings.engine.shown})
    yield from _fields("worker", asdict(settings.worker))
    yield from _fields("pools", settings.pools)
    for agent, reference in settings.agents.items():
        yield f"agents.{agent}", reference
    for agent, limits in settings.limits.items():
        own = asdict(limits)
        yield from (
            (key, own[key.rpartition(".")[2]]) for key in settings.sources if key.startswith(f"limits.{agent}.")
        )
    for model, price in settings.prices.items():
        yield from _fields(f"prices.{model}", asdict(price))


def _fields(section: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        yield f"{section}.{name}", list(value) if isinstance(value, tuple) else _plain(value)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
