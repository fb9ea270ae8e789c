"""What can be configured, and where it comes from: flags over environment over `trackside.toml` over defaults.

A key is `section.name`. In the file it is `[section]` and `name = …`, in the environment `TRACKSIDE_SECTION_NAME`. Only
the command line and the wiring read settings; every other module gets what it needs as arguments.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trackside.harness.errors import Fault, TracksideError

SETTINGS_FILE = "trackside.toml"
DEFAULT_DATABASE_URL = "sqlite:///trackside.db"

_ENVIRONMENT_PREFIX = "TRACKSIDE_"
_DATABASE_URL = "database.url"
_DATABASE_SPOOL = "database.spool"
_KEYS = frozenset({_DATABASE_URL, _DATABASE_SPOOL})
_AGENTS = "agents."  # whatever stands behind the dot is the agent's name
_FLAGS: Mapping[str, str] = {_DATABASE_URL: "--database"}
_URL = re.compile(r"\A[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PASSWORDS = (re.compile(r"(\A[^:/?]+://[^:@/?]*:).*(?=@)"), re.compile(r"([?&](?:ssl)?password=)[^&]*"))


class SettingsError(TracksideError, ValueError):
    """{where}: {why}."""


class DefaultDatabaseError(SettingsError):
    """{why}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One consistent set of settings. `sources` says for each key that is not at its default who set it."""

    agents: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """References to agents (`path/file.py:name` or `package.module:name`) by the names they go by."""
    database_url: str = DEFAULT_DATABASE_URL
    database_spool: str | None = None
    """The folder for what a database could not take, until it can; None: beside an SQLite file, else in
    `$XDG_STATE_HOME/trackside/spool` (`~/.local/state/trackside/spool`)."""
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def complaint(self, key: str, why: str) -> SettingsError:
        """The error to raise when a value turns out not to work only when it is used; it names who set the value."""
        source = self.sources.get(key, "the default")
        return SettingsError(where=source if source.startswith(("-", "TRACKSIDE_")) else f"{source}, {key}", why=why)

    @property
    def database_shown(self) -> str:
        """The database's address as it may be shown: without a password."""
        shown = self.database_url
        for password in _PASSWORDS:
            shown = password.sub(r"\1…", shown)
        return shown

    @property
    def database_source(self) -> str | None:
        """Who chose the database: a flag, a variable, the file; None for the default."""
        return self.sources.get(_DATABASE_URL)

    def database_complaint(self, why: str, *, fault: Fault = "caller") -> SettingsError:
        """The error to raise when the database cannot be used; its `fault` is the store's if another address would not
        have helped to find it.
        """
        if self.database_source is None:
            name = self.database_url.removeprefix("sqlite:///")
            return DefaultDatabaseError(why=why.replace(name, f"{name} (the default database)", 1), fault=fault)
        complaint = self.complaint(_DATABASE_URL, why)
        return SettingsError(**complaint.details, fault=fault)


def load_settings(
    flags: Mapping[str, str | None] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Read `trackside.toml`, the `TRACKSIDE_*` variables, and `flags` (by key; None: not given).

    `environ` is this process's environment and `folder`, where the file is, the current one if left out.

    Raises:
        SettingsError: a key is unknown, a value does not fit, or the file is not TOML; the message names it.
    """
    environ = os.environ if environ is None else environ
    folder = Path.cwd() if folder is None else folder
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    given = ((key, value, _FLAGS[key]) for key, value in (flags or {}).items() if value is not None)
    for key, value, source in (*_from_file(folder / SETTINGS_FILE), *_from_environment(environ), *given):
        values[key] = value
        sources[key] = source
    settings = Settings(
        agents={key.removeprefix(_AGENTS): value for key, value in values.items() if key.startswith(_AGENTS)},
        database_url=_URL.sub(lambda scheme: scheme[0].lower(), values.get(_DATABASE_URL, DEFAULT_DATABASE_URL), 1),
        database_spool=values.get(_DATABASE_SPOOL),
        sources=sources,
    )
    _check(settings)
    return settings


def _from_file(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(where=path.name, why=f"it is not TOML: {exc}") from exc
    except OSError as exc:
        raise SettingsError(where=path.name, why=f"it cannot be read: {exc.strerror}") from exc
    for section, entries in document.items():
        if not isinstance(entries, dict):
            raise SettingsError(where=path.name, why=f"unknown key {section}{_suggestion(section)}")
        for name, value in entries.items():
            key = f"{section}.{name}"
            if key not in _KEYS and (key == _AGENTS or not key.startswith(_AGENTS)):
                raise SettingsError(where=path.name, why=f"unknown key {key}{_suggestion(key)}")
            yield key, _text(value, f"{path.name}, {key}"), path.name


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    known = {_variable(key): key for key in _KEYS}
    for name, value in environ.items():
        if name in known:
            yield known[name], value, name
        elif name.startswith(prefix := _variable(_AGENTS)):
            yield f"{_AGENTS}{name.removeprefix(prefix).lower()}", value, name
        elif name.startswith(_ENVIRONMENT_PREFIX) and (near := difflib.get_close_matches(name, known, 1, 0.8)):
            # Other variables of this prefix belong to others; one that nearly is ours is a slip of the pen.
            raise SettingsError(where=name, why=f"there is no such setting; did you mean {near[0]}?")


def _variable(key: str) -> str:
    return f"{_ENVIRONMENT_PREFIX}{key.replace('.', '_').upper()}"


def _suggestion(key: str) -> str:
    near = difflib.get_close_matches(key, _KEYS, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else f"; known are agents.NAME, {', '.join(sorted(_KEYS))}"


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise SettingsError(where=where, why=f"{value!r} is not a text; put it in quotes")
    return value


def _check(settings: Settings) -> None:
    if not _URL.match(settings.database_url):
        url = settings.database_url
        raise settings.database_complaint(f"{url!r} is not a database URL; a file is written sqlite:///{url or 'FILE'}")
    if settings.database_spool is not None and (not settings.database_spool or "\0" in settings.database_spool):
        raise settings.complaint(_DATABASE_SPOOL, f"{settings.database_spool!r} is not the name of a folder")
    for name, reference in settings.agents.items():
        key = f"{_AGENTS}{name}"
        if ":" in name:
            raise settings.complaint(key, f"an agent's name has no colon, as {name!r} has")
        if not all(reference.rpartition(":")):
            raise settings.complaint(key, f"{reference!r} is not path/file.py:name or package.module:name")
