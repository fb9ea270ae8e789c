"""Completes the commands that messages suggest with the place that was asked, so that they find the same records."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from typer.core import TyperGroup

from trackside.app.cli.formatting import one_line

_COMMAND = re.compile(r"`trackside ([a-z ]+(?= -- )|[^`]+)([^`]*)`")
_PLACES = ("--url", "--database", "-d")
_known: list[Callable[[], TyperGroup]] = []


def know(parser: Callable[[], TyperGroup]) -> None:
    """Suggest commands of this parser. The parser registers itself here, because its commands suggest others."""
    _known.append(parser)


def flags_of(typed: Mapping[str, Any]) -> str:
    """The flags for the place that was typed; nothing if settings or the environment name it, now and next time.

    They contain no password.
    """
    from trackside.app.cli.places import Place, home_of
    from trackside.harness.errors import TracksideError

    if (url := typed.get("url")) is not None:
        return f" --url {shlex.quote(url.strip().rstrip('/'))}"
    if (database := typed.get("database")) is None:
        return ""
    try:
        return home_of(Place(database=database).settings()).flags
    except TracksideError:  # the settings themselves are wrong, and that has been reported
        return ""


def suggest_at(flags: str, text: str) -> str:
    """Add these flags to each `trackside …` in the text that takes them and names no place: at its end, or before `--`."""

    def complete(found: re.Match[str]) -> str:
        words = found[1].split()
        if any(word in _PLACES or word.startswith(("--url=", "--database=")) for word in words) or "&&" in words:
            return found[0]
        if not _takes(words, flags.split(maxsplit=1)[0]):
            return found[0]
        return f"`trackside {found[1]}{flags}{found[2]}`"

    return _COMMAND.sub(complete, text) if flags else text


def said_at(flags: str, failure: Exception) -> str:
    """What a failure says, on one line, with these flags added to the commands that it suggests."""
    return one_line(suggest_at(flags, str(failure)))


def _takes(words: list[str], flag: str) -> bool:
    """Whether a command has this option, rather than a hidden one that only says why it is of no use."""
    command: Any = _known[-1]() if _known else None
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands.get(word)
    return command is not None and any(
        flag in one.opts and not one.hidden for one in command.params if hasattr(one, "hidden")
    )
