"""Where the boxes and lines of a graph go, so that people can read it: in layers, from the start down.

After Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures" (IEEE Transactions
on Systems, Man, and Cybernetics, 1981): edges that close a cycle are turned around, each node is put in the layer of its
longest path from a start, edges over several layers get a place in each, the order in the layers follows the means of the
neighbours' places (barycenters), and the places follow the order. That is enough for agents' graphs.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

MOST_NODES: Final = 60
MOST_EDGES: Final = 200
"""Larger graphs are not drawn: nobody could read them, and drawing them would block the event loop."""

_KEPT: Final = 32
"""How many drawings are kept: a page fetches itself anew while its graph stays the same."""

_SWEEPS: Final = 8
_HEIGHT: Final = 34
_LAYER: Final = 84
_GAP: Final = 26
_CHARACTER: Final = 7.4
_LABEL: Final = 28
"""How many characters of a name are drawn."""

_BESIDE: Final = 12
_BEND: Final = 14
"""The room that an edge takes where it passes through a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A node: its centre, its size, and what it is."""

    id: str
    name: str
    label: str
    x: float
    y: float
    width: float
    height: float
    is_end: bool = False
    """Whether it marks where the graph begins or ends, and is not a node itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An edge: its path, in the form of SVG paths."""

    source: str
    target: str
    path: str
    label: str | None = None
    label_x: float = 0
    label_y: float = 0
    is_conditional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A graph as it is drawn."""

    boxes: Sequence[Box]
    lines: Sequence[Line]
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Edge:
    source: str
    target: str
    label: str | None
    is_conditional: bool


def drawn(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """A graph as `/assistants/{assistant_id}/graph` describes it; None if it is too large, or empty."""
    names = {str(node["id"]): _name(node) for node in nodes}
    if not names or len(names) > MOST_NODES:
        return None
    known = tuple(
        _Edge(
            str(edge["source"]),
            str(edge["target"]),
            None if edge.get("data") is None else str(edge["data"])[:_LABEL],
            bool(edge.get("conditional")),
        )
        for edge in edges
        if str(edge.get("source")) in names and str(edge.get("target")) in names
    )
    return None if len(known) > MOST_EDGES else _laid_out(tuple(names.items()), known)


@lru_cache(_KEPT)
def _laid_out(names: tuple[tuple[str, str], ...], edges: tuple[_Edge, ...]) -> Drawing:
    return _Layout(dict(names), edges).drawing()


def _name(node: Mapping[str, Any]) -> str:
    data = node.get("data")
    said = data.get("name") if isinstance(data, Mapping) else None
    return said if isinstance(said, str) and said else str(node["id"])


class _Layout:
    """Nodes of the graph are identified by their ids, places where an edge passes a layer by `(edge, layer)`."""

    def __init__(self, names: Mapping[str, str], edges: Sequence[_Edge]) -> None:
        self._names = names
        self._edges = edges
        self._loops = [edge for edge in edges if edge.source == edge.target]
        self._turned = _turned([*names], edges)
        self._layer = self._layers()
        self._chains = {
            number: self._chain(number, edge) for number, edge in enumerate(edges) if edge not in self._loops
        }
        self._rows = self._ordered()
        self._x = self._places()

    def drawing(self) -> Drawing:
        boxes = [self._box(node) for node in self._names]
        lines = [self._line(number, edge) for number, edge in enumerate(self._edges)]
        right = max(box.x + box.width / 2 for box in boxes)
        right = max([right + (_GAP * 2 if self._loops else 0), *(self._x[one] for row in self._rows for one in row)])
        return Drawing(
            boxes=boxes, lines=lines, width=right + _GAP, height=len(self._rows) * _LAYER - _LAYER + _HEIGHT + 2 * _GAP
        )

    def _layers(self) -> dict[str, int]:
        """The length of the longest path to each node from one that nothing leads to, without cycles."""
        before: dict[str, list[str]] = defaultdict(list)
        for number, edge in enumerate(self._edges):
            if edge not in self._loops:
                source, target = self._ends(number, edge)
                before[target].append(source)
        layers: dict[str, int] = {}

        def layer_of(node: str) -> int:
            if node not in layers:
                layers[node] = 1 + max((layer_of(one) for one in before[node]), default=-1)
            return layers[node]

        for node in self._names:
            layer_of(node)
        return layers

    def _ends(self, number: int, edge: _Edge) -> tuple[str, str]:
        return (edge.target, edge.source) if number in self._turned else (edge.source, edge.target)

    def _chain(self, number: int, edge: _Edge) -> list[Any]:
        """The nodes and places that an edge goes through, downwards."""
        source, target = self._ends(number, edge)
        between = [(number, layer) for layer in range(self._layer[source] + 1, self._layer[target])]
        return [source, *between, target]

    def _ordered(self) -> list[list[Any]]:
        rows: list[list[Any]] = [[] for _ in range(max(self._layer.values()) + 1)]
        for node in self._names:
            rows[self._layer[node]].append(node)
        for chain in self._chains.values():
            for place in chain[1:-1]:
                rows[place[1]].append(place)
        above: dict[Any, list[Any]] = defaultdict(list)
        below: dict[Any, list[Any]] = defaultdict(list)
        for chain in self._chains.values():
            for upper, lower in pairwise(chain):
                above[lower].append(upper)
                below[upper].append(lower)
        best, crossings = [[*row] for row in rows], _crossings(rows, below)
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            neighbours = above if down else below
            for number in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
                _sort(rows[number], rows[number - 1 if down else number + 1], neighbours)
            if (now := _crossings(rows, below)) < crossings:
                best, crossings = [[*row] for row in rows], now
        return best

    def _places(self) -> dict[Any, float]:
        """Where the middle of each node and place is: rows are centred, then pulled towards their neighbours."""
        widths = {one: self._width(one) for row in self._rows for one in row}
        x: dict[Any, float] = {}
        for row in self._rows:
            left = -(sum(widths[one] for one in row) + _GAP * (len(row) - 1)) / 2
            for one in row:
                x[one] = left + widths[one] / 2
                left += widths[one] + _GAP
        neighbours: dict[Any, list[Any]] = defaultdict(list)
        for chain in self._chains.values():
            for upper, lower in pairwise(chain):
                neighbours[lower].append(upper)
                neighbours[upper].append(lower)
        for _ in range(_SWEEPS):
            for row in self._rows:
                wanted = [_mean([x[other] for other in neighbours[one]], x[one]) for one in row]
                x.update(zip(row, _apart(wanted, [widths[one] for one in row]), strict=True))
        left = min(x[one] - widths[one] / 2 for one in x)
        return {one: place - left + _GAP for one, place in x.items()}

    def _width(self, one: Any) -> float:
        return max(48.0, len(_label(self._names[one])) * _CHARACTER + 22) if isinstance(one, str) else _BEND

    def _y(self, layer: int) -> float:
        return _GAP + _HEIGHT / 2 + layer * _LAYER

    def _box(self, node: str) -> Box:
        return Box(
            id=node,
            name=self._names[node],
            label=_label(self._names[node]),
            x=round(self._x[node], 1),
            y=self._y(self._layer[node]),
            width=round(self._width(node), 1),
            height=_HEIGHT,
            is_end=node in {"__start__", "__end__"},
        )

    def _line(self, number: int, edge: _Edge) -> Line:
        if edge in self._loops:
            return self._loop(edge)
        chain = self._chains[number]
        upper, lower = self._layer[chain[0]], self._layer[chain[-1]]
        points = [(self._x[chain[0]], self._y(upper) + _HEIGHT / 2)]
        for place in chain[1:-1]:
            points += [
                (self._x[place], self._y(place[1]) - _HEIGHT / 2),
                (self._x[place], self._y(place[1]) + _HEIGHT / 2),
            ]
        points.append((self._x[chain[-1]], self._y(lower) - _HEIGHT / 2))
        if number in self._turned:
            # Draw it beside the downward edge that there may be between the same nodes.
            points = [(x + _BESIDE, y) for x, y in reversed(points)]
        middle = points[len(points) // 2 - 1], points[len(points) // 2]
        return Line(
            source=edge.source,
            target=edge.target,
            path=_path(points),
            label=edge.label,
            label_x=round((middle[0][0] + middle[1][0]) / 2, 1),
            label_y=round((middle[0][1] + middle[1][1]) / 2, 1),
            is_conditional=edge.is_conditional,
        )

    def _loop(self, edge: _Edge) -> Line:
        right = self._x[edge.source] + self._width(edge.source) / 2
        y = self._y(self._layer[edge.source])
        out = f"{right + 30:.1f}"
        path = f"M{right:.1f} {y - 8:.1f}C{out} {y - 20:.1f} {out} {y + 20:.1f} {right:.1f} {y + 8:.1f}"
        return Line(
            source=edge.source,
            target=edge.target,
            path=path,
            label=edge.label,
            label_x=right + 34,
            label_y=y,
            is_conditional=edge.is_conditional,
        )


def _turned(nodes: Sequence[str], edges: Sequence[_Edge]) -> set[int]:
    """The edges that lead back to a node on the current path of a walk from the start: they close the cycles."""
    leaving: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, edge in enumerate(edges):
        if edge.source != edge.target:
            leaving[edge.source].append((number, edge.target))
    entered = {edge.target for edge in edges if edge.source != edge.target}
    turned: set[int] = set()
    on_the_way: set[str] = set()
    done: set[str] = set()

    def walk(node: str) -> None:
        on_the_way.add(node)
        for number, target in leaving[node]:
            if target in on_the_way:
                turned.add(number)
            elif target not in done:
                walk(target)
        on_the_way.discard(node)
        done.add(node)

    for node in sorted(nodes, key=lambda one: one in entered):
        if node not in done:
            walk(node)
    return turned


def _sort(row: list[Any], beside: Sequence[Any], neighbours: Mapping[Any, Sequence[Any]]) -> None:
    places = {one: place for place, one in enumerate(beside)}
    own = {one: place for place, one in enumerate(row)}
    means = {one: _mean([places[other] for other in neighbours[one] if other in places], own[one]) for one in row}
    row.sort(key=lambda one: means[one])


def _crossings(rows: Sequence[Sequence[Any]], below: Mapping[Any, Sequence[Any]]) -> int:
    found = 0
    for upper, lower in pairwise(rows):
        places = {one: place for place, one in enumerate(lower)}
        ends = [place for one in upper for place in sorted(places[other] for other in below[one])]
        before: list[int] = []  # sorted ends of earlier edges; an edge crosses those that end further right
        for end in ends:
            found += len(before) - bisect_right(before, end)
            insort(before, end)
    return found


def _apart(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Places near the wanted ones, in the same order, with gaps: the means of placing them rightwards and leftwards."""
    rightwards: list[float] = []
    for place, width in zip(wanted, widths, strict=True):
        least = rightwards[-1] + (widths[len(rightwards) - 1] + width) / 2 + _GAP if rightwards else place
        rightwards.append(max(place, least))
    leftwards: list[float] = []
    for place, width in zip(reversed(wanted), reversed(widths), strict=True):
        most = leftwards[-1] - (widths[-len(leftwards)] + width) / 2 - _GAP if leftwards else place
        leftwards.append(min(place, most))
    return [(one + other) / 2 for one, other in zip(rightwards, reversed(leftwards), strict=True)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _label(name: str) -> str:
    return name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…"


def _path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points: straight where it passes through a layer, bent between layers."""
    (x, y), written = points[0], [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for number, (to_x, to_y) in enumerate(points[1:]):
        if number % 2:
            written.append(f"L{to_x:.1f} {to_y:.1f}")
        else:
            half = (y + to_y) / 2
            written.append(f"C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(written)
