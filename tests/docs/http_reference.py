"""Writes the tables of docs/http.md: all endpoints, and all methods of LangGraph's clients with the endpoints they call.

To see what a method of the Python client calls, this module calls it with a transport that answers nothing. The
JavaScript client has the same methods in its own spelling, and a few others.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
from langgraph_sdk.client import LangGraphClient

from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import Endpoint, all_endpoints

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "http.md"
PARTS: Final = ("assistants", "threads", "runs", "crons", "store")

_ID: Final = "00000000-0000-4000-8000-000000000000"
_VALUES: Final[Mapping[str, Any]] = {
    "thread_id": _ID,
    "run_id": _ID,
    "cron_id": _ID,
    "assistant_id": "agent",
    "graph_id": "agent",
    "thread_ids": [_ID],
    "metadata": {},
    "values": {},
    "version": 1,
    "payloads": [{"assistant_id": "agent"}],
    "schedule": "* * * * *",
    "namespace": ["a"],
    "namespace_prefix": ["a"],
    "key": "k",
    "value": {},
}
_ALSO: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "assistants.get_subgraphs": [{"namespace": "inner"}],
    "runs.create": [{"thread_id": None}],
    "runs.stream": [{"thread_id": None}],
    "runs.wait": [{"thread_id": None}],
    "threads.get_state": [{"checkpoint_id": _ID}, {"checkpoint": {"checkpoint_id": _ID}}],
}
"""Other ways to call a method, which make it ask for something else."""

_SPECIAL: Final[Mapping[str, Sequence[str]]] = {
    "threads.stream": ["POST /threads/{thread_id}/commands", "POST /threads/{thread_id}/stream/events"],
}
"""Methods that call nothing themselves, but return an object that does."""

JAVASCRIPT_ONLY: Final[Mapping[str, Sequence[str]]] = {
    "threads.patchState": ["PATCH /threads/{thread_id}/state"],
}
_JAVASCRIPT_ALSO: Final[Mapping[str, Sequence[str]]] = {
    "runs.joinStream": ["GET /runs/{run_id}/stream"],
}


def methods() -> Iterator[str]:
    """The methods of the Python client, as `threads.create`."""
    client = LangGraphClient(httpx.AsyncClient())
    for part in PARTS:
        for name, _ in inspect.getmembers(type(getattr(client, part)), callable):
            if not name.startswith("_"):
                yield f"{part}.{name}"


def javascript(method: str) -> str:
    """How the JavaScript client spells the method."""
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), method)


async def calls_of(method: str) -> list[str]:
    """The endpoints that a method of the Python client calls, as `POST /threads`.

    Raises:
        LookupError: nobody has said what one of its arguments could be.
    """
    if method in _SPECIAL:
        return [*_SPECIAL[method]]
    found = [await _call_of(method, changed) for changed in ({}, *_ALSO.get(method, ()))]
    return [*dict.fromkeys(found)]


async def _call_of(method: str, changed: Mapping[str, Any]) -> str:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(501, json={"detail": "only asked"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://server") as http:
        part, _, name = method.partition(".")
        function = getattr(getattr(LangGraphClient(http), part), name)
        result = _called(function, changed)
        try:
            if inspect.isawaitable(result):
                result = await result
            if hasattr(result, "__anext__"):
                await anext(result)
        except Exception as exc:  # it fails because the transport says so; the next line reports any other failure
            if not asked:
                raise LookupError(f"{method} asks for nothing: {exc!r}") from exc
    if not asked:
        raise LookupError(f"{method} asks for nothing")
    return _endpoint_of(asked[0])


def _called(function: Any, changed: Mapping[str, Any]) -> Any:
    """What the function returns for the arguments that it needs, plus these."""
    parameters = inspect.signature(function).parameters.values()
    values = {one.name: _VALUES[one.name] for one in parameters if one.default is one.empty} | dict(changed)
    positional = [one.name for one in parameters if one.kind is one.POSITIONAL_ONLY and one.name in values]
    return function(*[values.pop(name) for name in positional], **values)


def _endpoint_of(request: httpx.Request) -> str:
    """The endpoint that a request is for; the request's own method and path if there is none."""
    path = request.url.path
    for endpoint in sorted(ENDPOINTS, key=lambda one: one.path.count("{")):
        pattern = re.sub(r"\\\{\w+(:path)?\\\}", lambda found: ".+" if found[1] else "[^/]+", re.escape(endpoint.path))
        if endpoint.method == request.method and re.fullmatch(pattern, path):
            return _name(endpoint)
    return f"{request.method} {path}"


def _name(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


ENDPOINTS: Final = all_endpoints(GROUPS)
BY_NAME: Final = {_name(endpoint): endpoint for endpoint in ENDPOINTS}


def rows_of_methods() -> Iterator[tuple[str, str, Sequence[str]]]:
    """Each method in Python and in JavaScript, and what it calls."""

    async def all_calls() -> list[tuple[str, list[str]]]:
        return [(method, await calls_of(method)) for method in methods()]

    for method, calls in asyncio.run(all_calls()):
        spelled = javascript(method)
        yield method, spelled, [*calls, *_JAVASCRIPT_ALSO.get(spelled, ())]
    for spelled, calls in JAVASCRIPT_ONLY.items():
        yield "", spelled, calls


def _methods_table() -> str:
    lines = ["| Python | JavaScript | endpoint | |", "|---|---|---|---|"]
    for python, spelled, calls in rows_of_methods():
        names = "<br>".join(f"`{call}`" for call in calls)
        verdicts = dict.fromkeys(_verdict(BY_NAME.get(call)) for call in calls)
        lines.append(f"| {_code(python)} | {_code(spelled)} | {names} | {'<br>'.join(verdicts)} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _verdict(endpoint: Endpoint | None) -> str:
    if endpoint is None:
        return "404"
    return "works" if endpoint.refuses is None else f"501: {endpoint.refuses}"


def _endpoints_table() -> str:
    callers: dict[str, list[str]] = {}
    for python, spelled, calls in rows_of_methods():
        for call in calls:
            callers.setdefault(call, []).append(python or f"{spelled} (JavaScript)")
    lines = []
    for group in dict.fromkeys(endpoint.group for endpoint in ENDPOINTS):
        lines += [f"### {group}", "", "| endpoint | needs | what it does | clients call it by |", "|---|---|---|---|"]
        for endpoint in ENDPOINTS:
            if endpoint.group == group:
                what = endpoint.summary if endpoint.refuses is None else f"501: {endpoint.refuses}"
                by = ", ".join(f"`{caller}`" for caller in callers.get(_name(endpoint), ()))
                needs = endpoint.needs.value if endpoint.refuses is None else ""
                lines.append(f"| `{_name(endpoint)}` | {needs} | {what} | {by} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def written(text: str) -> str:
    """The document with its tables as they have to be."""
    for name, table in (("methods", _methods_table()), ("endpoints", _endpoints_table())):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def documents() -> dict[Path, str]:
    """The page."""
    return {DOCUMENT: written(DOCUMENT.read_text(encoding="utf-8"))}
