"""How the tour is shown: numbered steps, what was typed, and what came of it."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence

from demo.stranger.ledger import Line

_INDENT = "   "


class Screen:
    """Standard output, with colours where somebody sees them."""

    def __init__(self) -> None:
        self._steps = 0
        self._is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def begin(self, *lines: str) -> None:
        """Say what this demo is."""
        print(self._styled("Trackside demo: a stranger with README.md", "1"))
        for line in lines:
            print(self._styled(line, "2"))

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._steps += 1
        print(f"\n{self._styled(f'{self._steps}  {title}', '1')}", flush=True)

    def typed(self, command: str) -> None:
        """Show a line that is typed."""
        print(f"{_INDENT}{self._styled(f'$ {command}', '36')}", flush=True)

    def wrote(self, name: str, text: str) -> None:
        """Show that a file was written."""
        print(f"{_INDENT}{self._styled(name, '36')}, {len(text.splitlines())} lines", flush=True)

    def came(self, *lines: str) -> None:
        """Show the result."""
        for line in lines:
            print(textwrap.indent(self._styled(line, "2"), _INDENT), flush=True)

    def balance(self, lines: Sequence[Line]) -> None:
        """Show what is left, line by line, and whether it is right."""
        for line in lines:
            number = str(line.number) if line.wanted is None else f"{line.number} of {line.wanted}"
            symbol, style = (" ", "0") if line.wanted is None else ("✓", "32") if line.is_right else ("✗", "1;31")
            print(f"{_INDENT}{self._styled(f'{symbol} {line.what:<21} {number:>12}', style)}  {line.remark}".rstrip())

    def end(self, words: str, *, is_well: bool) -> None:
        """Say how it ended."""
        print(f"\n{self._styled(words, '1;32' if is_well else '1;31')}", flush=True)

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._is_coloured else text
