"""Asks the terminal whether its background is light."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import tty
from time import monotonic
from typing import Final

_PATIENCE: Final = 0.3  # seconds; even a terminal on the other side of the world takes less
_ASKED: Final = b"\x1b]11;?\x1b\\\x1b[c"
"""Asks for the background colour (OSC 11), then for what every terminal answers (DA1), so as not to wait in vain."""
_COLOUR: Final = re.compile(rb"\x1b\]11;rgb:([0-9a-fA-F]+)/([0-9a-fA-F]+)/([0-9a-fA-F]+)")
_END: Final = re.compile(rb"\x1b\[\?[0-9;]*c")
_HALF: Final = 0.5  # of the brightness of white


def is_light() -> bool:
    """Whether the background is light; False if the terminal does not say."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return brightness_of(_answer(sys.stdin.fileno(), sys.stdout.fileno())) > _HALF


def brightness_of(answer: bytes) -> float:
    """How bright the background is by the terminal's answer, from 0 (black, or not said) to 1 (white)."""
    found = _COLOUR.search(answer)
    if found is None:
        return 0.0
    red, green, blue = (int(part, 16) / int(b"f" * len(part), 16) for part in found.groups())
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue  # ITU-R BT.709


def _answer(keys: int, screen: int) -> bytes:
    """What the terminal answers, until it has said everything or a moment has passed."""
    before = termios.tcgetattr(keys)
    said = b""
    try:
        tty.setcbreak(keys)
        os.write(screen, _ASKED)
        deadline = monotonic() + _PATIENCE
        while not _END.search(said) and select.select([keys], [], [], max(0.0, deadline - monotonic()))[0]:
            said += os.read(keys, 1_024)
    finally:
        termios.tcsetattr(keys, termios.TCSANOW, before)
    return said
