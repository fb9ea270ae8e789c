"""Assistants on the wire: one for each agent, and as lasting as its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from trackside.harness.ids import assistant_id_of
from trackside.harness.types import JsonObject


def agent_of(assistant: str, agents: Collection[str]) -> str | None:
    """The agent that a name or an assistant's id means; None if there is none."""
    if assistant in agents:
        return assistant
    return next((agent for agent in agents if assistant_id_of(agent) == assistant.lower()), None)


type SortBy = Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"]
type Field = Literal[
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "created_at",
    "updated_at",
    "metadata",
    "version",
]
type PageSize = Annotated[int, Meta(ge=1, le=1_000)]
type Offset = Annotated[int, Meta(ge=0)]


SYSTEM: Final = {"created_by": "system"}
"""The metadata of all assistants, as LangGraph's servers have it for assistants that nobody has made."""


class Assistant(Struct, frozen=True, kw_only=True):
    """An agent, as LangGraph's clients see it."""

    assistant_id: str
    graph_id: str
    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime
    config: JsonObject = field(default_factory=dict)
    context: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=lambda: dict(SYSTEM))
    version: int = 1


class AssistantFilter(Struct, forbid_unknown_fields=True):
    """Which assistants are meant: those with all of this metadata, of this agent, and with this text in their names."""

    metadata: dict[str, Any] | None = None
    graph_id: str | None = None
    name: str | None = None


class AssistantSearch(AssistantFilter, forbid_unknown_fields=True):
    """Which assistants to return, in which order, and which fields of each."""

    limit: PageSize | None = None
    offset: Offset | None = None
    sort_by: SortBy | None = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[Field] | None = None


class VersionSearch(Struct, forbid_unknown_fields=True):
    """Which versions of an assistant to return."""

    metadata: dict[str, Any] | None = None
    limit: PageSize | None = None
    offset: Offset | None = None


class DrawingQuery(Struct, forbid_unknown_fields=True):
    """To which depth agents inside are drawn, too; true: all."""

    xray: bool | int = False


class SubgraphQuery(Struct, forbid_unknown_fields=True):
    """Whether those inside those inside are wanted, too."""

    recurse: bool = False


class Drawing(Struct, kw_only=True):
    """What an agent is made of: nodes, and the edges between them."""

    nodes: list[JsonObject]
    edges: list[JsonObject]


class Schemas(Struct, kw_only=True):
    """JSON Schemas of what goes into an agent, comes out of it, and is kept; null where that is not known."""

    graph_id: str
    input_schema: JsonObject | None = None
    output_schema: JsonObject | None = None
    state_schema: JsonObject | None = None
    config_schema: JsonObject | None = None
    context_schema: JsonObject | None = None


def is_meant(assistant: Assistant, by: AssistantFilter | VersionSearch) -> bool:
    """Whether a filter means this assistant."""
    wanted: Mapping[str, Any] = by.metadata or {}
    if any(key not in assistant.metadata or assistant.metadata[key] != value for key, value in wanted.items()):
        return False
    if isinstance(by, VersionSearch):
        return True
    return by.graph_id in {None, assistant.graph_id} and (by.name or "").casefold() in assistant.name.casefold()
