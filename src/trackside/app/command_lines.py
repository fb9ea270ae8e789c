"""Trackside's commands for people to type, in messages and on pages, quoted for a shell whatever names and ids hold."""

from __future__ import annotations

import shlex


def command_line(name: str, *given: str, flags: str = "", rest: str = "") -> str:
    """A command with its arguments, then its flags; flags and `--` come first if an argument looks like an option.

    Args:
        name: the command's name.
        given: its arguments.
        flags: its options, as they are typed, with a space before them: ` --database sqlite:///runs.db`.
        rest: further arguments as they are typed, such as a placeholder: `'ANSWER'`. None begins with `-`.
    """
    words = shlex.join(given) + (f" {rest}" if rest else "")
    if any(one.startswith("-") for one in given):
        return f"trackside {name}{flags} -- {words}"
    return f"trackside {name} {words}{flags}"
