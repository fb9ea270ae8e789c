"""Writes docs/reference/openapi.json, which servers answer with, and docs/reference/endpoints.md, which presents it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from blocks import DOCS

from trackside.app.server.openapi import document
from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import all_endpoints

_SCHEMAS: Final = "#/components/schemas/"
_BEGINNING: Final = """# Every endpoint

This page lists every endpoint of the server, with its parameters, body and responses. It is made from the routes.
[`openapi.json`](openapi.json) is the same for programs; a server returns it at `/openapi.json`.
[What the server answers](../http.md) says what holds for all endpoints, and which methods of clients call them.

A name with `?` may be left out. A request that fails is answered with a [`Problem`](#problem).
"""


def documents() -> dict[Path, str]:
    """The page and the document."""
    api = document(all_endpoints(GROUPS))
    folder = DOCS / "reference"
    text = json.dumps(api, indent=1, ensure_ascii=False) + "\n"
    return {folder / "endpoints.md": "\n".join(_page(api)).rstrip() + "\n", folder / "openapi.json": text}


def _page(api: Mapping[str, Any]) -> Iterator[str]:
    yield _BEGINNING
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
        if "x-refused" not in operation
    ]
    for tag in api["tags"]:
        of_tag = [(name, operation) for name, operation in operations if tag["name"] in operation["tags"]]
        if of_tag:
            yield f"## {tag['name']}\n"
            yield f"{tag['description']}\n"
            for name, operation in of_tag:
                yield from _operation(name, operation)
    yield "## Schemas\n"
    for name, schema in sorted(api["components"]["schemas"].items()):
        yield f"### `{name}`\n"
        if said := schema.get("description"):
            yield f"{' '.join(said.split())}\n"
        if schema.get("properties"):
            yield from _table(schema["properties"], schema.get("required", ()))


def _operation(name: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{name}`\n"
    yield f"{operation['summary']}. Needs `{operation['x-permission']}`.\n"
    if said := operation.get("description"):
        yield f"{said}\n"
    if parameters := operation["parameters"]:
        values = {f"{one['name']} ({one['in']})": {**one, **one["schema"]} for one in parameters}
        yield from _table(values, {name for name, one in values.items() if one.get("required")})
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        yield f"Body: {_shown(body)}\n"
    answers = [
        f"{status}: {', '.join(f'{_shown(one.get("schema", {}))} as `{kind}`' for kind, one in answer['content'].items())}"
        if "content" in answer
        else f"{status}, without a body"
        for status, answer in operation["responses"].items()
        if int(status) < 400
    ]
    yield f"Answers: {'; '.join(answers)}\n"


def _table(values: Mapping[str, Mapping[str, Any]], required: Any) -> Iterator[str]:
    rows = []
    for name, value in values.items():
        word, _, place = name.partition(" ")
        shown = f"`{word}`{'' if name in required else '?'} {place}".strip()
        default = f"`{json.dumps(value['default'])}`" if value.get("default") is not None else ""
        rows.append((shown, _shown(value), default, " ".join(str(value.get("description", "")).split())))
    titles = ("name", "value", "default", "what for")
    said = [number for number in range(len(titles)) if any(row[number] for row in rows)]
    for row in (titles, ["---"] * len(titles), *rows):
        yield f"| {' | '.join(row[number] for number in said)} |"
    yield ""


def _shown(schema: Mapping[str, Any]) -> str:
    """The type of a value, in words."""
    match schema:
        case {"$ref": reference}:
            name = str(reference).removeprefix(_SCHEMAS)
            return f"[`{name}`](#{name.lower()})"
        case {"anyOf": kinds}:
            return " or ".join(dict.fromkeys(map(_shown, kinds)))
        case {"enum": values}:
            return ", ".join(f"`{one}`" if one else "nothing" for one in values)
        case {"type": "array", "items": {} as items} if items:
            return f"list of {_shown(items)}"
        case {"type": "object", "additionalProperties": {} as values} if values:
            return f"object of {_shown(values)}"
        case {"format": "date-time"}:
            return "time"
        case {"type": kind}:
            return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(str(kind), str(kind))
        case _:
            return "any JSON"
