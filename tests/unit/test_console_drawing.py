"""Where the boxes and lines of a drawn graph are: what comes first is above, and nothing overlaps."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

import pytest

from trackside.app.dashboard.drawing import MOST_EDGES, MOST_NODES, Drawing, drawn


def graph(*edges: str) -> Drawing:
    """A drawing of edges such as `a b`; `a b?` is conditional."""
    pairs = [edge.rstrip("?").split() for edge in edges]
    nodes = [
        {"id": name, "type": "runnable", "data": {"name": name}} for name in dict.fromkeys(itertools.chain(*pairs))
    ]
    lines = [
        {"source": source, "target": target, "conditional": edge.endswith("?")}
        for (source, target), edge in zip(pairs, edges, strict=True)
    ]
    found = drawn(nodes, lines)
    assert found is not None
    return found


def row_of(drawing: Drawing, name: str) -> float:
    return next(box.y for box in drawing.boxes if box.id == name)


def test_a_node_is_below_all_that_lead_to_it() -> None:
    drawing = graph("__start__ a", "a b", "b c", "a c", "c __end__")
    rows = [row_of(drawing, name) for name in ("__start__", "a", "b", "c", "__end__")]
    assert rows == sorted(set(rows))
    assert [box.is_end for box in drawing.boxes] == [True, False, False, False, True]


def test_a_cycle_is_drawn_with_the_edge_that_closes_it_upwards() -> None:
    drawing = graph("__start__ agent", "agent tools?", "tools agent", "agent __end__?")
    assert row_of(drawing, "agent") < row_of(drawing, "tools")
    back = next(line for line in drawing.lines if line.source == "tools")
    forth = next(line for line in drawing.lines if line.target == "tools")
    assert points(back.path)[0][1] > points(back.path)[-1][1]
    assert points(forth.path)[0][1] < points(forth.path)[-1][1]
    assert points(back.path)[0][0] != points(forth.path)[-1][0]  # one is beside the other
    assert [line.is_conditional for line in drawing.lines] == [False, True, False, True]


def test_edges_cross_where_they_have_to_and_nowhere_else() -> None:
    drawing = graph("s a", "s b", "b x", "a y", "x e", "y e")  # x is first, and belongs below b
    places = {box.id: box.x for box in drawing.boxes}
    assert (places["a"] < places["b"]) == (places["y"] < places["x"])


def test_a_node_that_leads_to_itself_has_a_loop_inside_the_drawing() -> None:
    drawing = graph("s a", "a a?", "a e")
    loop = next(line for line in drawing.lines if line.source == line.target)
    box = next(box for box in drawing.boxes if box.id == "a")
    assert box.x + box.width / 2 < loop.label_x < drawing.width


@pytest.mark.parametrize("seed", range(25))
def test_no_boxes_overlap_and_all_are_inside(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"node_{number}" * chance.randint(1, 4) for number in range(chance.randint(2, MOST_NODES))]
    edges = [(chance.choice(names), chance.choice(names)) for _ in range(2 * len(names))]
    drawing = drawn([{"id": name} for name in names], [{"source": one, "target": other} for one, other in edges])
    assert drawing is not None
    assert len(drawing.lines) == len(edges)
    for box in drawing.boxes:
        assert box.x - box.width / 2 >= 0
        assert box.x + box.width / 2 <= drawing.width
        assert box.y + box.height / 2 <= drawing.height
    for one, other in itertools.combinations(drawing.boxes, 2):
        assert one.y != other.y or abs(one.x - other.x) >= (one.width + other.width) / 2


@pytest.mark.parametrize(
    ("nodes", "edges"),
    [
        ([], []),
        ([{"id": f"{number}"} for number in range(MOST_NODES + 1)], []),
        ([{"id": "a"}, {"id": "b"}], [{"source": "a", "target": "b"}] * (MOST_EDGES + 1)),
    ],
)
def test_nothing_and_what_nobody_could_read_is_not_drawn(nodes: list[Any], edges: list[Any]) -> None:
    assert drawn(nodes, edges) is None


def test_a_graph_that_stays_the_same_is_drawn_once() -> None:
    assert graph("s a", "a e?") is graph("s a", "a e?")
    assert graph("s a", "a e?") != graph("s a", "a e")


def test_edges_to_nodes_that_are_not_there_are_left_out() -> None:
    drawing = drawn(
        [{"id": "a"}, {"id": "b", "data": "__end__"}], [{"source": "a", "target": "b"}, {"source": "a", "target": "z"}]
    )
    assert drawing is not None
    assert [(line.source, line.target) for line in drawing.lines] == [("a", "b")]


def points(path: str) -> list[tuple[float, float]]:
    """The points of a path."""
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
