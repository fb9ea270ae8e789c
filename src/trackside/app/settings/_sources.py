"""Reads what is set from the file and the environment, value by value."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trackside.app.settings._keys import (
    OBSERVERS,
    Key,
    has_owners,
    key_of_variable,
    near_variable,
    parser_of,
    plain_keys,
    suggestion,
    variable_of,
)
from trackside.app.settings._service_links import is_service_link
from trackside.app.settings.errors import SettingsError, where_set


class Entry(NamedTuple):
    """One value, and who set it: a file, a variable, a flag."""

    key: Key
    source: str
    value: Any


def entry_of(key: Key, source: str, value: Any) -> Entry:
    """A value as its key wants it.

    Raises:
        SettingsError: it does not fit, or there is no such key.
    """
    parse = parser_of(key)
    if parse is None:
        raise _unknown(source, str(key) or "''")
    try:
        return Entry(key, source, parse(value))
    except ValueError as exc:
        raise SettingsError(where=where_set(str(key), source), why=str(exc)) from None


def from_file(document: Mapping[str, Any], source: str) -> Iterator[Entry]:
    """What the file sets, besides observers.

    Raises:
        SettingsError: something in it is wrong; the message names the key.
    """
    for section, entries in document.items():
        if section == OBSERVERS:
            continue
        if not isinstance(entries, dict):
            raise _unknown(source, section)
        for name, value in entries.items():
            if has_owners(section, single=True):
                yield entry_of(Key(section, name, ""), source, value)
            elif isinstance(value, dict) and has_owners(section, single=False):
                yield from _of_owner(section, name, value, source)
            else:
                yield entry_of(Key(section, None, name), source, value)


def _of_owner(section: str, owner: str, values: dict[str, Any], source: str) -> Iterator[Entry]:
    for name, value in values.items():
        if isinstance(value, dict):
            why = f'unknown key {section}.{owner}.{name}; a name with a dot stands in quotes, [{section}."{owner}.{name}"]'
            raise SettingsError(where=source, why=why)
        yield entry_of(Key(section, owner, name), source, value)


def read_document(path: Path) -> dict[str, Any]:
    """What is in the file; nothing if there is none.

    Raises:
        SettingsError: it is not TOML, or cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except ValueError as exc:  # of TOML, of UTF-8, of a number with more digits than Python reads
        raise SettingsError(where=path.name, why=f"it is not TOML: {exc}") from exc
    except RecursionError:
        raise SettingsError(where=path.name, why="what is in it is nested too deeply") from None
    except OSError as exc:
        raise SettingsError(where=path.name, why=f"it cannot be read: {exc.strerror}") from exc


def from_environment(environ: Mapping[str, str]) -> Iterator[Entry]:
    """What the variables set. Others with this prefix belong to others, as those of a Kubernetes Service do; one that
    is nearly ours is a slip of the pen.

    Raises:
        SettingsError: a value does not fit, or nearly names a setting; the message names the variable.
    """
    plain = {variable_of(key): key for key in plain_keys()}
    for variable, value in environ.items():
        if is_service_link(variable, value):
            continue
        try:
            key = plain.get(variable) or key_of_variable(variable)
        except ValueError as exc:
            raise SettingsError(where=variable, why=str(exc)) from None
        if key is not None:
            yield entry_of(key, variable, value)
        elif (near := near_variable(variable)) is not None:
            raise SettingsError(where=variable, why=f"there is no such setting; did you mean {near}?")


def _unknown(source: str, key: str) -> SettingsError:
    return SettingsError(where=source, why=f"unknown key {key}{suggestion(key)}")
