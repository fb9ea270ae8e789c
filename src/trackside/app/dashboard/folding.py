"""JSON values as trees that people unfold, however large they are: limited in parts, and in the length of each text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trackside.app.dashboard.cutting import json_text

PARTS: Final = 600
"""How many parts of a value are shown in all."""

WIDTH: Final = 100
"""How many parts of one object or list are shown."""

TEXT: Final = 4_000
"""How many characters of a text are shown."""

DEPTH: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A part of a value, under a name.

    `parts` are the contents of an object or a list; without any, `text` shows the value.
    """

    name: str
    kind: str
    """`object`, `list`, `text`, `number`, `truth` or `nothing`."""
    text: str
    parts: Sequence[Folded] = ()
    size: int = 0
    """How many parts there are, of which `parts` may hold only the first; for a text, its characters."""

    @property
    def hidden(self) -> int:
        """How many parts, or characters, are left out."""
        return self.size - (len(self.text) if self.kind == "text" else len(self.parts))


def folded(value: Any, name: str = "", *, parts: int = PARTS) -> Folded:
    """A value as a tree, of at most this many parts."""
    return _Folding(parts).of(name, value, 0)


class _Folding:
    def __init__(self, parts: int) -> None:
        self._left = parts

    def of(self, name: str, value: Any, depth: int) -> Folded:
        self._left -= 1
        if isinstance(value, str):
            return Folded(name=name, kind="text", text=value[:TEXT], size=len(value))
        if isinstance(value, bool):
            return Folded(name=name, kind="truth", text="true" if value else "false")
        if value is None:
            return Folded(name=name, kind="nothing", text="null")
        if isinstance(value, Mapping):
            items = [(str(key), item) for key, item in list(value.items())[:WIDTH]]
            return self._inner(name, "object", items, len(value), depth)
        if isinstance(value, list | tuple):
            items = [(str(place), item) for place, item in enumerate(value[:WIDTH])]
            return self._inner(name, "list", items, len(value), depth)
        return Folded(name=name, kind="number", text=json_text(value)[:TEXT])

    def _inner(self, name: str, kind: str, items: Sequence[tuple[str, Any]], size: int, depth: int) -> Folded:
        inside: list[Folded] = []
        if depth < DEPTH:
            for key, item in items:
                if self._left <= 0:
                    break
                inside.append(self.of(key, item, depth + 1))
        return Folded(name=name, kind=kind, text="{…}" if kind == "object" else "[…]", parts=inside, size=size)


def short(value: Any, longest: int = 2_000) -> str:
    """A value as JSON on one line, or its beginning; no more of a large value is written than is shown."""
    written: list[str] = []
    left = longest + 1
    for piece in _pieces(value, longest):
        written.append(piece[:left])
        left -= len(piece)
        if left <= 0:
            break
    text = "".join(written)
    return text if len(text) <= longest else f"{text[:longest]}…"


def _pieces(value: Any, longest: int) -> Iterator[str]:
    if isinstance(value, str):
        yield json_text(value[:longest])
    elif isinstance(value, Mapping):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json_text(str(key)[:longest])}: "
            yield from _pieces(item, longest)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(item, longest)
        yield "]"
    else:
        yield json_text(value)
