"""Which headers of a request become part of a run's config: how settings name them, and which of a request's fit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Final

from trackside.harness.agents.asked import configured

CREDENTIALS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "x-service-key"})
"""Headers that prove who asks. What becomes part of a run's config is kept and shown with the run."""

_NOT: Final = "!"
_PATTERN: Final = re.compile(r"!?[#$%&'*+.^_`|~0-9a-z-]+")


def header_pattern(value: Any) -> str:
    """The name of a header, in which `*` stands for any part; with `!` before it, of one that stays out.

    Raises:
        ValueError: it is not one, or is that of a credential.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    if not _PATTERN.fullmatch(text):
        raise ValueError(
            f'{value!r} is not the name of a header; write "x-tenant", "x-user-*", or "!x-user-key" to leave one out'
        )
    if text in CREDENTIALS:
        raise ValueError(f"{text!r} proves who the caller is, which never goes into a run's config")
    return text


def headers_for_config(patterns: Iterable[str], headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """What a request's headers tell the graph of its run, by lower-case name; several headers of one name are joined.

    Credentials are never among them, nor what only the server may say of a run, such as its thread and who asks.

    Args:
        patterns: which headers are wanted, as `header_pattern` has them.
        headers: all headers of the request, as ASGI has them.
    """
    wanted, unwanted = _told_apart(patterns)
    if not wanted:
        return {}
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if _gets_in(name, wanted, unwanted):
            found[name] = f"{found[name]}, {value}" if name in found else value
    return configured(found)


def is_said_by_headers(name: str, patterns: Iterable[str]) -> bool:
    """Whether only a header may say what has this name in a config, so that nobody does where a run has no request.

    Anybody may say what only `*` fits: every name fits it.

    Args:
        name: a name in the config.
        patterns: as above.
    """
    wanted, unwanted = _told_apart(patterns)
    naming = [pattern for pattern in wanted if pattern.strip("*")]
    return _gets_in(name, naming, unwanted) and name in configured({name: None})


def _told_apart(patterns: Iterable[str]) -> tuple[list[str], list[str]]:
    """The patterns of what is wanted, and those of what stays out."""
    named = [pattern.lower() for pattern in patterns]
    wanted = [pattern for pattern in named if not pattern.startswith(_NOT)]
    return wanted, [pattern.removeprefix(_NOT) for pattern in named if pattern.startswith(_NOT)]


def _gets_in(name: str, wanted: Iterable[str], unwanted: Iterable[str]) -> bool:
    return name not in CREDENTIALS and _fits(name, wanted) and not _fits(name, unwanted)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
