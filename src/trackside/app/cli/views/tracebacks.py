"""Formats tracebacks for the author of an agent: where in their code it failed, and little else."""

from __future__ import annotations

import importlib
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path

_MACHINERY = (str(Path(__file__).parents[3]), "<frozen importlib", str(Path(importlib.__file__).parent))
_LIBRARIES = (*_MACHINERY, "<frozen ", sysconfig.get_path("stdlib"))
# Also by name, because a traceback may have been recorded on another machine.
_LIBRARY_FOLDER = re.compile(r"[/\\]((site|dist)-packages|lib[/\\]python3\.\d+)[/\\]")

_FRAME = re.compile(r'(?P<margin>[\s|]*)File "(?P<path>[^"]*)", line \d+')
_HEADER = re.compile(r"[\s|+-]*(Exception Group )?Traceback \(most recent call last\):")
_REPEATED = re.compile(r"[\s|]*\[Previous line repeated ")


def without_machinery(text: str) -> str:
    """A traceback without the frames of Trackside and of the import system."""
    return _without(text, lambda path: path.startswith(_MACHINERY))


def without_libraries(text: str) -> str:
    """A traceback without the frames of Python and of installed packages; if it has no others, they stay."""
    own = _without(text, lambda path: path.startswith(_LIBRARIES) or _LIBRARY_FOLDER.search(path) is not None)
    return own if any(map(_FRAME.match, own.splitlines())) else without_machinery(text)


def _without(text: str, is_hidden: Callable[[str], bool]) -> str:
    kept: list[str] = []
    hidden: str | None = None  # the margin of the frame whose lines are being left out
    for line in text.splitlines(keepends=True):
        if (frame := _FRAME.match(line)) is not None:
            hidden = frame["margin"] if is_hidden(frame["path"]) else None
        elif hidden is not None and not line.startswith(f"{hidden}  ") and not _REPEATED.match(line):
            hidden = None
        if hidden is None:
            kept.append(line)
    bare = [line for line, after in zip(kept, [*kept[1:], ""], strict=True) if not _heads_nothing(line, after)]
    return "".join(bare)


def _heads_nothing(line: str, after: str) -> bool:
    return _HEADER.match(line) is not None and _FRAME.match(after) is None
