"""The OpenAPI document of the endpoints, made from the same list that answers requests: it cannot say anything else."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from trackside._version import __version__
from trackside.app.server.examples import example_of
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Problem
from trackside.app.server.routing import EVENT_STREAM, PROBES, Endpoint
from trackside.harness.types import JsonObject

_REF: Final = "#/components/schemas/{name}"
_PATH_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_UUIDS: Final = frozenset({"thread_id", "run_id", "cron_id"})
_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The `id` of the last event seen: the stream goes on behind it. Browsers send it by themselves.",
    "schema": {"type": "string"},
}


def document(endpoints: Sequence[Endpoint], *, root_path: str = "") -> JsonObject:
    """The document; `root_path` is where the app is mounted."""
    schemas = _Schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = _PATH_PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Trackside",
            "version": __version__,
            "description": "Runs agents, and tells everyone who needs to know. LangGraph's clients speak to it unchanged.",
        },
        "servers": [{"url": root_path or "/"}],
        "tags": [{"name": group, "description": about} for group, about in groups_of(endpoints).items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": _error_responses(schemas),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a JWT."},
            },
        },
        # A server on loopback may have no authentication.
        "security": [{"key": []}, {"bearer": []}, {}],
    }


def groups_of(endpoints: Iterable[Endpoint]) -> dict[str, str]:
    """The groups of endpoints, in their order, and what each is about."""
    found: dict[str, str] = {}
    for endpoint in endpoints:
        about = inspect.cleandoc(sys.modules[endpoint.handler.__module__].__doc__ or "") if not endpoint.refuses else ""
        if not found.get(endpoint.group):
            found[endpoint.group] = _unwrapped(about.partition("\n\n")[0])
    return found


def about(endpoint: Endpoint) -> str:
    """What the docstring of an endpoint says besides its summary."""
    return _unwrapped((inspect.getdoc(endpoint.handler) or "").partition("\n")[2].strip())


def path_parameters(endpoint: Endpoint) -> list[str]:
    """The names in an endpoint's path."""
    return _PATH_PARAMETER.findall(endpoint.path)


class _Schemas:
    """The schemas of everything that goes over the wire."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        kinds: list[Any] = [Problem]
        for endpoint in endpoints:
            kinds += [endpoint.described_body, endpoint.query, *endpoint.answers.values()]
        self._kinds = [kind for index, kind in enumerate(kinds) if kind not in (None, object, *kinds[:index])]
        found, components = msgspec.json.schema_components(self._kinds, ref_template=_REF)
        self._schemas = list(found)
        queries = [endpoint.query for endpoint in endpoints if endpoint.query is not None]
        used_as_query = {self._name_of(kind) for kind in queries}
        self._all = components
        self.components = {name: schema for name, schema in components.items() if name not in used_as_query}

    def of(self, kind: Any) -> JsonObject:
        """The schema of a type, by reference where it has a name."""
        return self._schemas[self._kinds.index(kind)]

    def part_of(self, kind: Any) -> JsonObject:
        """The schema of a type, or of a list of it, without required fields: clients select some."""
        schema = self.of(kind)
        if schema.get("type") == "array":
            return {**schema, "items": self._without_needs(schema["items"])}
        return self._without_needs(schema)

    def _without_needs(self, schema: JsonObject) -> JsonObject:
        return {**self._all[str(schema["$ref"]).rpartition("/")[2]], "required": []} if "$ref" in schema else schema

    def fields_of(self, kind: Any) -> tuple[Mapping[str, Any], Sequence[str]]:
        """The schemas of a Struct's fields, and the names of those that are required."""
        schema = self._all[self._name_of(kind)]
        return schema["properties"], schema["required"]

    def _name_of(self, kind: Any) -> str:
        return str(self.of(kind)["$ref"]).rpartition("/")[2]


def _operation(endpoint: Endpoint, schemas: _Schemas) -> JsonObject:
    operation: JsonObject = {
        "operationId": _operation_id(endpoint),
        "tags": [endpoint.group],
        "summary": endpoint.summary.rstrip("."),
        "parameters": [*_parameters(endpoint, schemas)],
        "responses": _responses(endpoint, schemas),
        "x-permission": endpoint.needs.value,
    }
    if more := about(endpoint):
        operation["description"] = more
    if endpoint.refuses is not None:
        operation["description"] = f"Not supported: {endpoint.refuses}"
        operation["x-refused"] = True
    if endpoint.needs is Permission.public and endpoint.refuses is None:
        operation["security"] = []
    if endpoint.body is not None:
        content: JsonObject = {"schema": schemas.of(endpoint.described_body)}
        if (example := example_of(endpoint)) is not None:
            content["example"] = example
        is_needed = _needs_fields(endpoint.described_body)
        operation["requestBody"] = {"required": is_needed, "content": {"application/json": content}}
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    if endpoint.refuses is None:
        return endpoint.handler.__name__
    words = re.sub(r"\W+", "_", _PATH_PARAMETER.sub(r"\1", endpoint.path)).strip("_")
    return f"{endpoint.method.lower()}_{words}"


def _needs_fields(kind: Any) -> bool:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return any(field.required for field in msgspec.structs.fields(kind))
    return True


def _parameters(endpoint: Endpoint, schemas: _Schemas) -> Iterable[JsonObject]:
    for name in path_parameters(endpoint):
        schema = {"type": "string", "format": "uuid"} if name in _UUIDS else {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if endpoint.query is not None:
        fields, required = schemas.fields_of(endpoint.query)
        for name, schema in fields.items():
            yield {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
    if endpoint.method == "GET" and endpoint.media_type == EVENT_STREAM:
        yield _LAST_EVENT_ID


def _without_null(schema: Mapping[str, Any]) -> JsonObject:
    """The schema of what can stand in a query, which has no null."""
    if "anyOf" not in schema:
        return dict(schema)
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    kinds = [kind for kind in schema["anyOf"] if kind != {"type": "null"}]
    return {**kinds[0], **rest} if len(kinds) == 1 else {**rest, "anyOf": kinds}


_ERRORS: Final = {
    401: "The server does not know who sends the request",
    403: "The caller may not do that",
    404: "There is no such thing, or it belongs to somebody else",
    408: "The request took too long to arrive",
    409: "The request conflicts with what is there",
    413: "The body is too large",
    415: "The body is not JSON, or is compressed",
    422: "Something in the request does not fit; the sentence names it",
    429: "Too many requests, or too many streams",
    501: "The server does not support this",
    503: "The database is away, or the server is closing; try again",
}


_STATES: Final = ("/threads/{thread_id}/state", "/threads/{thread_id}/history")
"""Paths at which a thread's agent, which may not be there, is asked."""


def _errors_of(endpoint: Endpoint) -> list[int]:
    """The statuses that an endpoint may fail with."""
    if endpoint.refuses is not None:
        return [401, 403, 429, 501, 503]
    found = [] if endpoint.path in PROBES else [429]
    if endpoint.needs is not Permission.public:
        found += [401, 403, 404, 503]
    if endpoint.method != "GET" or endpoint.path.startswith(_STATES):
        found.append(409)
    if endpoint.body is not None:
        found += [408, 413, 415]
    if endpoint.body is not None or endpoint.query is not None or path_parameters(endpoint):
        found.append(422)
    if endpoint.method != "GET":
        found.append(501)
    return sorted(found)


def _error_responses(schemas: _Schemas) -> JsonObject:
    content = {"application/json": {"schema": schemas.of(Problem)}}
    return {f"Error{status}": {"description": why, "content": content} for status, why in _ERRORS.items()}


def _responses(endpoint: Endpoint, schemas: _Schemas) -> JsonObject:
    found: JsonObject = {}
    for status, kind in endpoint.answers.items():
        said: JsonObject = {"description": HTTPStatus(status).phrase}
        if kind is not None:
            said["content"] = {endpoint.media_type: {"schema": _answer_schema(endpoint, kind, schemas)}}
        found[str(status)] = said
    errors = {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in _errors_of(endpoint)}
    return errors | found


def _answer_schema(endpoint: Endpoint, kind: Any, schemas: _Schemas) -> JsonObject:
    if kind is object or endpoint.media_type == EVENT_STREAM:
        return {}
    selects = _has_field(endpoint.body, "select") or _has_field(endpoint.query, "select")
    return schemas.part_of(kind) if selects else schemas.of(kind)


def _has_field(kind: Any, name: str) -> bool:
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return is_struct and any(field.name == name for field in msgspec.structs.fields(kind))


def _unwrapped(text: str) -> str:
    """Paragraphs without their line breaks."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
