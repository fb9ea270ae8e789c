"""Whether the code that settings name can be loaded: agents, observers, and what a server needs before it starts.

Each is tried in a process of its own, so that whatever it does happens there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from trackside.app.command_lines import command_line
from trackside.app.settings import Settings
from trackside.app.wiring.agents import FORGETS
from trackside.app.wiring.elsewhere import tried_elsewhere
from trackside.app.wiring.findings import Finding, Severity
from trackside.app.wiring.try_loading import (
    BEHIND_PLACE,
    DATABASE_VARIABLE,
    FORGETFUL,
    OBSERVER,
    REDACTION,
    SETTING,
    SETTINGS,
)

_LOADING_SECONDS: Final = 120.0  # that a module may take to be imported
_AT_ONCE: Final = 4  # processes that import something


async def examine_code(settings: Settings) -> AsyncIterator[Finding]:
    """What of the code that these settings name cannot be loaded, and which agents forget their threads."""
    named = {f"agents.{name}": (name, reference) for name, reference in settings.agents.items()}
    if settings.redact is not None:
        named["runs.redact"] = (REDACTION, settings.redact)
    observers = [(OBSERVER, observer.name) for observer in settings.observers]
    servers = [(SETTING, key) for key in SETTINGS if key in settings.sources or _is_about(key, settings)]
    free, environ = asyncio.Semaphore(_AT_ONCE), _environment(settings)
    tried = (*named.values(), *observers, *servers)
    whys = iter(await asyncio.gather(*(_try_loading(*arguments, environ, free=free) for arguments in tried)))
    for found in (
        _of_references(settings, named, whys),
        _of_observers(settings, whys),
        _of_server(settings, servers, whys),
    ):
        for finding in found:
            yield finding


def _is_about(key: str, settings: Settings) -> bool:
    """Whether other keys concern this one, as those of tokens concern who is let in."""
    return key == "server.auth" and any(name.startswith("server.jwt_") for name in settings.sources)


def _of_references(settings: Settings, named: dict[str, tuple[str, str]], whys: Iterator[str]) -> Iterator[Finding]:
    for key, (name, reference) in named.items():
        where = f"{settings.sources.get(key, 'settings')}, {key}"
        if (why := next(whys)) == FORGETS:
            fix = f"do that, or keep its threads in a database; to see whether that helped: `{_start(settings)}`"
            yield Finding(severity=Severity.warning, what=why, where=where, fix=fix)
        elif why:
            shown = _start(settings) if name == REDACTION else command_line("run", reference)
            yield Finding(
                severity=Severity.error,
                what=f"{reference} cannot be loaded: {why.rstrip('.')}",
                where=where,
                fix=f"correct the reference or the module; the whole traceback: `{shown}`",
            )


def _of_observers(settings: Settings, whys: Iterator[str]) -> Iterator[Finding]:
    for observer in settings.observers:
        if why := next(whys):
            key, what = "", why.rstrip(".")
            if what.startswith(observer.where):  # unless the process that tried it says nothing of it
                key, _, what = what.removeprefix(observer.where).partition(": ")
            fix = "correct the table (nothing runs until then); to see which observers there are: `trackside observers`"
            yield Finding(severity=Severity.error, what=what, where=f"{observer.where}{key}", fix=fix)


def _of_server(settings: Settings, servers: list[tuple[str, str]], whys: Iterator[str]) -> Iterator[Finding]:
    for _, key in servers:
        if why := next(whys):
            place, _, what = why.rpartition(BEHIND_PLACE)
            where = place or settings.place_of(key)
            fix = f"correct it (no server starts until then); to see what a start would say: `{_start(settings)}`"
            yield Finding(severity=Severity.error, what=what.rstrip("."), where=where, fix=fix)


def _start(settings: Settings) -> str:
    """The command that says what keeps a server from starting."""
    return "trackside serve --check" if settings.agents else "trackside serve AGENT --check"


def _environment(settings: Settings) -> Mapping[str, str]:
    """The environment of the processes that try code: for these settings, even if a flag names the database."""
    typed = settings.database_source == "--database"
    return {**os.environ, DATABASE_VARIABLE: settings.database_url} if typed else os.environ


async def _try_loading(name: str, reference: str, environ: Mapping[str, str], *, free: asyncio.Semaphore) -> str:
    """Why something cannot be loaded; `FORGETS` for an agent that can be, and forgets; else nothing."""
    async with free:
        return await _load_elsewhere(name, reference, environ)


async def _load_elsewhere(name: str, reference: str, environ: Mapping[str, str]) -> str:
    command = (sys.executable, "-m", "trackside.app.wiring.try_loading", name, reference)
    tried = await tried_elsewhere(command, seconds=_LOADING_SECONDS, environ=environ)
    if tried is None:
        return f"importing it takes more than {_LOADING_SECONDS:g} s"
    if tried.returncode == 0:
        return ""
    if tried.returncode == FORGETFUL:
        return FORGETS
    lines = tried.said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the process that imported it ended with {tried.returncode}"
