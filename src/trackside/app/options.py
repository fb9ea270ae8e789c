"""Checks of single options of observers: a wrong value in the settings is refused by the option's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from trackside.app.delivery import ObserverOptionError

__all__ = ["checked_flag", "checked_headers", "checked_number", "checked_text"]

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~]([ \t!-~]*[!-~])?")


def checked_text(option: str, value: Any) -> str:
    """Check that a value is a text of one line that is not empty.

    Raises:
        ObserverOptionError: it is not. The message does not contain the value, as it may be secret.
    """
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ObserverOptionError(option=option, why="it is a text of one line that is not empty")
    return value


def checked_number(option: str, value: Any, *, least: float, most: float, whole: bool = False) -> Any:
    """Check that a value is a number between two others.

    Raises:
        ObserverOptionError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise ObserverOptionError(option=option, why=f"it is {kind} from {least:,} to {most:,}")
    return value


def checked_flag(option: str, value: Any) -> bool:
    """Check that a value is true or false.

    Raises:
        ObserverOptionError: it is something else.
    """
    if not isinstance(value, bool):
        raise ObserverOptionError(option=option, why="it is true or false")
    return value


def checked_headers(option: str, value: Any, *, is_ours: Callable[[str], bool], owner: str) -> dict[str, str]:
    """Check headers that go with each request.

    Args:
        option: the name of the option.
        value: what the settings have; None means no headers.
        is_ours: whether the user may not set the header of this name, in lower case.
        owner: whose header it is then, in words.

    Raises:
        ObserverOptionError: one of them cannot be sent, or the user may not set it. The message never contains a value.
    """
    headers: dict[str, str] = {}
    if value is None:
        return headers
    if not isinstance(value, Mapping):
        raise ObserverOptionError(option=option, why='it is a table of names and texts, as {"x-key" = "env:KEY"}')
    known: set[str] = set()
    for name, text in value.items():
        if not isinstance(name, str) or _TOKEN.fullmatch(name) is None:
            raise ObserverOptionError(option=option, why=f"{name!r:.60} is not the name of a header")
        if is_ours(name.lower()):
            raise ObserverOptionError(option=option, why=f"{name} is not yours to set: it belongs to {owner}")
        if name.lower() in known:
            raise ObserverOptionError(option=option, why=f"{name} is there twice")
        if not isinstance(text, str) or _VALUE.fullmatch(text) is None:
            why = f"the value of {name} is not one line of visible ASCII characters"
            raise ObserverOptionError(option=option, why=why)
        known.add(name.lower())
        headers[name] = text
    return headers
