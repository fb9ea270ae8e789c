"""Parses what is set into a text, a number or a length of time, or raises the reason why it is not one."""

from __future__ import annotations

import re
from typing import Any

from trackside.app.config_headers import header_pattern
from trackside.app.settings.durations import duration_of

_LAST_PORT = 65_535
_BYTES = re.compile(r"([0-9]{1,15})\s*([KMG]?)I?B?")
_UNITS = {"": 1, "K": 1_024, "M": 1_048_576, "G": 1_073_741_824}


def parse_text(value: Any) -> str:
    """A text.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is not a text; put it in quotes")


def parse_count(value: Any) -> int:
    """A whole number from 1 up, also as a text.

    Raises:
        ValueError: it is not one.
    """
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if type(number) is not int or number < 1:
        raise ValueError(f"{value!r} is not a whole number from 1 up; leave it out for the default")
    return number


def parse_seconds(value: Any) -> float:
    """A length of time.

    Raises:
        ValueError: it is not one.
    """
    found = duration_of(str(value)) if type(value) in {int, float, str} else None
    if found is None:
        raise ValueError(f"{value!r} is not a length of time; write 90, 30s, 5m, 2h or 3d")
    return found.seconds


def parse_port(value: Any) -> int:
    """A port to listen at; 0 is any that is free.

    Raises:
        ValueError: it is not one.
    """
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if type(number) is not int or not 0 <= number <= _LAST_PORT:
        raise ValueError(f"{value!r} is not a port from 1 to {_LAST_PORT}; 0 is any that is free")
    return number


def parse_positive_seconds(value: Any) -> float:
    """A length of time that is not nothing.

    Raises:
        ValueError: it is not one.
    """
    if (seconds := parse_seconds(value)) == 0:
        raise ValueError("it has to be longer than zero")
    return seconds


def parse_bytes(value: Any) -> int:
    """A number of bytes: `65536`, `64KB`, `16MB`.

    Raises:
        ValueError: it is not one.
    """
    found = _BYTES.fullmatch(str(value).strip().upper()) if type(value) in {int, str} else None
    if found is None or not int(found[1]):
        raise ValueError(f"{value!r} is not a number of bytes; write 65536, 64KB or 16MB")
    return int(found[1]) * _UNITS[found[2]]


def parse_headers(value: Any) -> tuple[str, ...]:
    """Names of headers, in a list, or with commas between them, as a variable has it.

    Raises:
        ValueError: something is not such a name.
    """
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise ValueError(f"{value!r} is not a list of names of headers")  # noqa: TRY004  # as all that is wrong with values
    return tuple(dict.fromkeys(map(header_pattern, listed)))


def parse_switch(value: Any) -> bool:
    """True or false, also as a text.

    Raises:
        ValueError: it is neither.
    """
    switch = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if type(switch) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return switch
