"""Writes docs/reference/events.md, and docs/reference/schema/: events and their payloads as JSON Schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from attributes import said_of_attributes
from blocks import DOCS

from trackside.app.event_json import EventData
from trackside.harness import payloads
from trackside.harness.types import LifecycleEventType

SCHEMAS: Final = DOCS / "reference" / "schema"
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_DEFS: Final = "#/$defs/"
_OF_EVENTS: Final[Mapping[str, str]] = {
    "event_id": "The id of the event, a UUID in the order of time. An event that comes twice has the same id.",
    "event_type": "What has happened.",
    "run_id": "The run to which it has happened.",
    "thread_id": "The thread on which it has happened.",
    "sequence": "The number of the event within its run: 1, 2, 3 …, without a gap.",
    "occurred_at": "When it has happened, with an offset.",
}
_BEGINNING: Final = """# Events and payloads

This page lists the six events of a run, and what is in each. It and the JSON Schemas (draft 2020-12) are made from the
types in `trackside.harness.payloads`. A test holds them against what runs of all kinds of agents announce.

| event | when | schema of its payload |
|---|---|---|
"""
_ORDER: Final = """
A run announces `run_started`, `thread_status_updated` (busy), and a `human_message` for each message that is new. Then
it announces exactly one of `run_completed`, `run_failed` and `run_cancelled`, and `thread_status_updated` if the thread's
status changes. A run that never started announces only its end.

A payload may have keys that are not listed here; they come through everything unchanged. What an observer that redacts
has removed is not there. An emitter that is not Trackside's own may leave out `status`, which then follows from the type
of the event.

## Every event

[`event.json`](schema/event.json) is the schema of a whole event. Webhooks, brokers, `trackside events --json`,
`trackside export` and `GET /events` all have it in this form; the last three add its `position` in the log.

| key | value | |
|---|---|---|
"""


def documents() -> dict[Path, str]:
    """The page and the schemas."""
    schemas = {f"{kind}.json": payload_schema(kind) for kind in LifecycleEventType}
    found = {SCHEMAS / name: _json(schema) for name, schema in {**schemas, "event.json": event_schema()}.items()}
    return {DOCS / "reference" / "events.md": "\n".join(_page()), **found}


def payload_schema(kind: LifecycleEventType) -> dict[str, Any]:
    """The schema of an event's payload."""
    (root,), parts = _components([payloads.PAYLOADS[kind]])
    own = parts.pop(root["$ref"].removeprefix(_DEFS))
    return {"$schema": _DRAFT, "title": f"Payload of {kind}", **own, **({"$defs": parts} if parts else {})}


def event_schema() -> dict[str, Any]:
    """The schema of a whole event."""
    references, parts = _components(payloads.PAYLOADS.values())
    envelope = msgspec.json.schema(EventData)["$defs"]["EventData"]["properties"]
    properties = {name: {**envelope[name], "description": said} for name, said in _OF_EVENTS.items()}
    properties["event_type"]["enum"] = [kind.value for kind in LifecycleEventType]
    properties["sequence"]["minimum"] = 1
    return {
        "$schema": _DRAFT,
        "title": "Event of a run",
        "type": "object",
        "properties": {**properties, "payload": {"type": "object"}},
        "required": [*properties, "payload"],
        "oneOf": [
            {"properties": {"event_type": {"const": kind.value}, "payload": reference}}
            for kind, reference in zip(payloads.PAYLOADS, references, strict=True)
        ],
        "$defs": parts,
    }


def _components(kinds: Any) -> tuple[Any, dict[str, Any]]:
    """References to the payloads' schemas, and those schemas with their parts; every key is explained."""
    references, parts = msgspec.json.schema_components(kinds, ref_template=f"{_DEFS}{{name}}")
    for name, schema in parts.items():
        said = said_of_attributes(getattr(payloads, name))
        schema["description"] = " ".join(schema["description"].split())
        schema["properties"] = {key: {**schema["properties"][key], "description": said[key]} for key in said}
    return references, parts


def _json(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _page() -> Iterator[str]:
    _, parts = _components(payloads.PAYLOADS.values())
    names = {kind: payload.__name__ for kind, payload in payloads.PAYLOADS.items()}
    rows = [
        f"| [`{kind}`](#{kind}) | {parts[name]['description']} | [`{kind}.json`](schema/{kind}.json) |"
        for kind, name in names.items()
    ]
    yield _BEGINNING + "\n".join(rows) + "\n" + _ORDER + "\n".join(_rows(event_schema())) + "\n"
    for kind, name in names.items():
        yield from _section(str(kind), parts.pop(name))
    for name, schema in parts.items():
        yield from _section(name, schema)


def _section(title: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"## `{title}`\n"
    yield f"{schema['description']}\n"
    yield "| key | value | |\n|---|---|---|"
    yield from _rows(schema)
    yield ""


def _rows(schema: Mapping[str, Any]) -> Iterator[str]:
    for key, value in schema["properties"].items():
        name = f"`{key}`" if key in schema["required"] else f"`{key}`?"
        yield f"| {name} | {_shown(value)} | {value.get('description', 'What the event says, by its type.')} |"


def _shown(value: Mapping[str, Any]) -> str:
    """The type of a value, in words."""
    match value:
        case {"$ref": reference}:
            name = str(reference).removeprefix(_DEFS)
            return f"[`{name}`](#{name.lower()})"
        case {"anyOf": kinds}:
            return " or ".join(map(_shown, kinds))
        case {"enum": values}:
            return ", ".join(f"`{one}`" if one is not None else "null" for one in values)
        case {"type": "array", "items": items}:
            return f"list of {_shown(items)}"
        case {"type": "object", "additionalProperties": {} as values} if values:
            return f"object of {_shown(values)}"
        case {"format": "date-time"}:
            return "time"
        case {"type": kind}:
            return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(kind, str(kind))
        case _:
            return "any JSON"
