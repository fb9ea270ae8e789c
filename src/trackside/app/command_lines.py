"""Commands of ours for people to type, in messages and on pages, as a shell reads them: whatever names and ids are like."""

from __future__ import annotations

import shlex


def command_line(name: str, *given: str, flags: str = "", rest: str = "") -> str:
    """A command with its arguments, and flags behind these; before them, and then `--`, where one looks like an option.

    Args:
        name: of the command.
        given: its arguments.
        flags: its options, as they are typed, with a space before them: ` --database sqlite:///runs.db`.
        rest: arguments behind these as they are typed, as one that is to be replaced: `'ANSWER'`. None begins with `-`.
    """
    words = shlex.join(given) + (f" {rest}" if rest else "")
    if any(one.startswith("-") for one in given):
        return f"trackside {name}{flags} -- {words}"
    return f"trackside {name} {words}{flags}"
