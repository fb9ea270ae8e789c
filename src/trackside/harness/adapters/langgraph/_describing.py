"""What a graph is made of: its drawing, its schemas, the graphs inside it. All of it is worked out in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.utils.pydantic import create_model_v2

from trackside.harness.adapters.langgraph._graph import Graph, Pregel
from trackside.harness.payload import whole
from trackside.harness.types import JsonObject


def drawing_of(graph: Graph, *, xray: int | bool) -> JsonObject:
    """As `Describes.drawing`."""
    drawn = whole(graph.get_graph(xray=xray).to_json())
    nodes = [{"type": "schema", "data": str(node["id"]), **node} for node in drawn["nodes"]]
    return {"nodes": nodes, "edges": drawn["edges"]}


def schemas_of(graph: Graph) -> JsonObject:
    """As `Describes.schemas`."""
    context = _schema(graph.get_context_jsonschema)
    return {
        "input_schema": _schema(graph.get_input_jsonschema),
        "output_schema": _schema(graph.get_output_jsonschema),
        "state_schema": _schema(lambda: _state_schema(graph)),
        "config_schema": context,  # what is configured of a graph today is its context
        "context_schema": context,
    }


def subgraphs_of(graph: Graph, namespace: str | None, *, recurse: bool) -> Mapping[str, JsonObject]:
    """As `Describes.subgraphs`."""
    return {
        name: {"graph_id": inside.name, **schemas_of(inside)}
        for name, inside in graph.get_subgraphs(namespace=namespace, recurse=recurse)
        if isinstance(inside, Pregel)
    }


def _state_schema(graph: Graph) -> JsonObject:
    name, shown = graph.get_name("State"), graph.stream_channels_asis
    if isinstance(shown, str):
        model = create_model_v2(name, root=(_type_of(graph, shown), None))
    else:
        model = create_model_v2(name, field_definitions={key: (_type_of(graph, key), None) for key in shown})
    return model.model_json_schema()


def _type_of(graph: Graph, channel: str) -> Any:
    return getattr(graph.channels[channel], "UpdateType", Any)


def _schema(make: Callable[[], JsonObject | None]) -> JsonObject | None:
    try:
        made = make()
    except Exception:  # noqa: BLE001  # the author's types, which need not have a JSON Schema
        return None
    return None if made is None else dict(whole(made))
