"""Which keys there are, and what a value of each has to be.

Most are `section.name`. In some sections things have names that somebody chose (agents, models), and one more level:
`agents.NAME`, `limits.NAME.timeout`, `prices.MODEL.input_per_million`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trackside.app.settings._access import ACCESS_KEYS, parse_secret
from trackside.app.settings._engine import ENGINE_KEYS, WORKER_KEYS, parse_pool
from trackside.app.settings._values import (
    parse_bytes,
    parse_count,
    parse_headers,
    parse_port,
    parse_positive_seconds,
    parse_seconds,
    parse_switch,
    parse_text,
)
from trackside.app.settings.variables import NO_SETTINGS

DATABASE_URL = "database.url"
DATABASE_SPOOL = "database.spool"
REDACT = "runs.redact"
SERVER_APP = "server.app"
SERVER_HOST = "server.host"
SERVER_PORT = "server.port"
ENGINE_URL = "engine.url"
OBSERVERS = "observers"
SAVERS = ("store", "langgraph")
MIDDLEWARE_ORDERS = ("middleware_first", "auth_first")

_VARIABLES = "TRACKSIDE_"
_LONGEST_HEARTBEAT = 30.0  # seconds


class Key(NamedTuple):
    """The key of a setting. `owner` is the agent or model that it belongs to, in sections where things have names."""

    section: str
    owner: str | None
    name: str

    def __str__(self) -> str:
        return ".".join(part for part in self if part)


def _number(value: Any) -> float:
    try:
        number = float(value) if type(value) in {int, float, str} else -1.0
    except (ValueError, OverflowError):  # the latter for a whole number beyond all floats
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"{value!r} is not a number of US dollars from 0 up")
    return number


def _money(value: Any) -> float:
    if (number := _number(value)) == 0:
        raise ValueError("a run that may cost nothing could not call a model; leave it out for no limit")
    return number


def _heartbeat(value: Any) -> float:
    if (seconds := parse_positive_seconds(value)) > _LONGEST_HEARTBEAT:
        raise ValueError("clients take a server that is silent for a minute for gone; 30s is the most")
    return seconds


def _timeout(value: Any) -> float:
    if (seconds := parse_seconds(value)) == 0:
        raise ValueError("a run that may take no time could do nothing; leave it out for no limit")
    return seconds


def _saver(value: Any) -> str:
    return _chosen(value, "saver", SAVERS)


def _order(value: Any) -> str:
    return _chosen(value, "order", MIDDLEWARE_ORDERS)


def _chosen(value: Any, what: str, choices: tuple[str, str]) -> str:
    if value not in choices:
        raise ValueError(f'{value!r} is no {what}; choose "{choices[0]}" or "{choices[1]}"')
    return str(value)


type _Kinds = Mapping[str, Callable[[Any], Any]]

_LIMITS: _Kinds = {
    "max_running": parse_count,
    "timeout": _timeout,
    "max_tokens": parse_count,
    "max_cost_usd": _money,
    "max_llm_calls": parse_count,
    "max_tool_calls": parse_count,
    "max_attempts": parse_count,
}
_PLAIN: Mapping[str, _Kinds] = {
    "database": {"url": parse_text, "spool": parse_text, "spool_size": parse_bytes},
    "checkpoints": {"saver": _saver},
    "limits": _LIMITS,
    "runs": {
        "max_running": parse_count,
        "shutdown_grace": parse_seconds,
        "cancel_after": parse_seconds,
        "stuck_after": parse_seconds,
        "redact": parse_text,
    },
    "server": {
        "host": parse_text,
        "port": parse_port,
        "heartbeat": _heartbeat,
        "max_body": parse_bytes,
        "graceful": parse_seconds,
        "log": parse_switch,
        "private_webhooks": parse_switch,
        "console": parse_switch,
        "webhook_secret": parse_secret,
        "app": parse_text,
        "middleware_order": _order,
        "configurable_headers": parse_headers,
        **ACCESS_KEYS,
    },
    "engine": ENGINE_KEYS,
    "worker": WORKER_KEYS,
}
"""The sections whose keys are all known."""
_OWNED: Mapping[str, _Kinds] = {
    "agents": {"": parse_text},
    "pools": {"": parse_pool},
    "limits": _LIMITS,
    "prices": {f"{part}_per_million": _number for part in ("input", "output", "cache_read", "cache_write")},
}
"""What can be set of things that have names; an agent is a single value, and so is its pool."""


def parser_of(key: Key) -> Callable[[Any], Any] | None:
    """What parses a key's value; it raises `ValueError` with the reason if it cannot. None: there is no such key."""
    if key.owner == "":
        return None
    return (_PLAIN if key.owner is None else _OWNED).get(key.section, {}).get(key.name)


def has_owners(section: str, *, single: bool) -> bool:
    """Whether things have names in a section; with `single`, whether each of them is a single value."""
    return section in _OWNED and ("" in _OWNED[section]) is single


def plain_keys() -> list[Key]:
    """The keys without a name in them that somebody chose."""
    return [Key(section, None, name) for section, kinds in _PLAIN.items() for name in kinds]


def variable_of(key: Key) -> str:
    """The environment variable that sets a plain key."""
    return f"{_VARIABLES}{key.section}_{key.name}".upper()


def key_of_variable(variable: str) -> Key | None:
    """The key that an environment variable sets, if that has an owner's name in it, which is then in lower case.

    Raises:
        ValueError: it begins as such a variable does, and sets nothing.
    """
    if variable.startswith(f"{_VARIABLES}{OBSERVERS}".upper()):
        raise ValueError('observers are set in the file, where an option is a variable\'s value if it is "env:NAME"')
    for section, kinds in _OWNED.items():
        prefix = f"{_VARIABLES}{section}_".upper()
        if not variable.startswith(prefix):
            continue
        rest = variable.removeprefix(prefix).lower()
        for name in kinds:
            owner = rest.removesuffix(f"_{name}") if name else rest
            if owner and (owner != rest or not name):
                return Key(section, owner, name)
        forms = ", ".join(f"{prefix}NAME_{name}".upper().rstrip("_") for name in kinds)
        raise ValueError(f"there is no such setting; there are {forms}")
    return None


def near_variable(variable: str) -> str | None:
    """The variable that was probably meant, if this is one that nearly sets something."""
    if not variable.startswith(_VARIABLES) or variable in NO_SETTINGS:
        return None
    near = difflib.get_close_matches(variable, map(variable_of, plain_keys()), 1, 0.8)
    return near[0] if near else None


def suggestion(wrong: str) -> str:
    """What to add to a message about a key that does not exist: the one that was meant, or all that there are."""
    section, _, last = wrong.rpartition(".")
    if wrong in _PLAIN or wrong in _OWNED:
        return f"; it is a section, which begins with [{wrong}] on a line of its own"
    known = _OWNED.get(section.partition(".")[0], {}) if "." in section else _PLAIN.get(section, {})
    if near := difflib.get_close_matches(last, known, 1, 0.6):
        return f"; did you mean {section}.{near[0]}?"
    if meant := _elsewhere(wrong, last):
        return f"; did you mean {meant}?"
    if known:
        return f"; [{section}] has {', '.join(sorted(known))}"
    sections = sorted({*_PLAIN, *_OWNED})
    return f"; there are the sections {', '.join(f'[{name}]' for name in sections)}, and tables [[{OBSERVERS}]]"


def _elsewhere(wrong: str, name: str) -> str | None:
    """The key of any section that was probably meant: one of this name, or a similar one."""
    keys = plain_keys()
    same = [str(key) for key in keys if key.name == name]
    return next(iter(same or difflib.get_close_matches(wrong, map(str, keys), 1, 0.7)), None)
