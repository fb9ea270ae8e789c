"""A walk over all endpoints that there are, with the ids of somebody else wherever an id may stand.

It is driven by the table of endpoints: one that takes something of which is not said here what it names fails the walk.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeAliasType, TypedDict, get_args, get_origin
from uuid import uuid4

import httpx
import msgspec
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph_sdk import get_client

from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import EVENT_STREAM, Endpoint, all_endpoints
from trackside.app.server.wire.runs import BatchedRun
from trackside.app.settings import AccessSettings, ServerSettings
from trackside.app.storage import api_keys
from trackside.harness import RunContext

type ServeAgents = Callable[..., Any]

MARK = "note-of-ada"
"""What Ada marks her things with, which a stranger may guess, and send."""
SECRET = "known-to-nobody-but-ada"
"""What else is in all of her things, which no stranger ever says himself."""
ENDPOINTS = all_endpoints(GROUPS)
FOREIGN_PATHS = {"thread_id", "run_id", "checkpoint_id", "cron_id"}
SHARED_PATHS = {"assistant_id", "namespace", "name", "filename", "subgraph", "worker_id"}

NAMED_BY = {
    # what names something of somebody's, in bodies and queries: how it is filled
    "thread_id": lambda it: it.thread_id,
    "thread_ids": lambda it: [it.thread_id],
    "run_id": lambda it: it.run_id,
    "run_ids": lambda it: [it.run_id],
    "parent_run_id": lambda it: it.run_id,
    "ids": lambda it: [it.thread_id],
    "id_prefix": lambda it: it.thread_id[:13],
    "checkpoint_id": lambda it: it.checkpoint_id,
    "checkpoint": lambda it: {"thread_id": it.thread_id, "checkpoint_id": it.checkpoint_id, "checkpoint_ns": ""},
    "before": lambda it: None,  # a place in a list: pages of others' things are empty from wherever they are read
    "cron_id": lambda it: it.cron_id,
    "namespace": lambda it: ["ada", "notes"],
    "namespace_prefix": lambda it: ["ada"],
    "prefix": lambda it: ["ada"],
    "suffix": lambda it: ["notes"],
    "key": lambda it: "secret",
    "metadata": lambda it: {"note": MARK},
    "values": lambda it: {"text": SECRET},
    "text": lambda it: SECRET,
    "filter": lambda it: {"note": MARK},
    "config": lambda it: {
        "configurable": {"thread_id": it.thread_id, "checkpoint_id": it.checkpoint_id, "checkpoint_ns": ""}
    },
    "params": lambda it: {
        "thread_id": it.thread_id,
        "run_id": it.run_id,
        "assistant_id": "chat",
        "input": {"text": "x"},
    },
}
"""What is filled with the ids of somebody else's things."""

REQUIRED: dict[str, Any] = {
    "assistant_id": "chat",
    "schedule": "0 0 1 1 *",
    "key": "mine",
    "value": {"mine": True},
    "namespace": ["mine"],
    "name": "mine",
    "position": 0,
    "since": "2026-01-01T00:00:00Z",
    "id": 1,
    "method": "run.start",
    "channels": ["values", "lifecycle", "messages", "updates"],
    "node_id": "say",
    "status": "pending",
    "values": None,
}
"""What has to be there, filled with things of the stranger's own."""

UNTYPED = {"/runs/batch": BatchedRun}
"""The types of objects that are decoded only later, by the paths of their endpoints."""

PLAIN = {
    "input", "command", "context", "stream_mode", "stream_subgraphs", "stream_resumable", "interrupt_before",
    "interrupt_after", "multitask_strategy", "if_not_exists", "if_exists", "on_disconnect", "on_completion",
    "after_seconds", "webhook", "durability", "checkpoint_during", "feedback_keys", "strict_resume", "langsmith_tracer",
    "ttl", "limit", "offset", "sort_by", "sort_order", "select", "extract", "status", "as_node", "subgraphs", "xray",
    "recurse", "wait", "action", "cancel_on_disconnect", "after", "newest_first", "agent", "type", "types", "since",
    "until", "width", "start", "on_failure", "position", "graph_id", "name", "assistant_id", "schedule", "timezone",
    "end_time", "enabled", "on_run_completed", "key", "value", "index", "max_depth", "refresh_ttl", "query", "depth",
    "last_event_id", "channels", "id", "method", "response_format", "namespaces", "interrupt_id", "supersteps",
    "node_id", "stream", "strategy", "keep_latest", "past", "reason", "include", "check_db",
    "description", "version", "user_id", "state_updates", "prune", "min_cost", "min_duration",
    "details", "removed", "waiting",
}  # fmt: skip
"""What names nothing of anybody's."""


class Text(TypedDict):
    text: str


def graph() -> Any:
    builder = StateGraph(Text)
    builder.add_node("say", lambda state: {"text": state["text"]})
    builder.add_edge(START, "say")
    builder.add_edge("say", END)
    return builder.compile()


class Held:
    """An agent whose runs say something, and go on until they are let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, input: Any, run: RunContext) -> Any:
        run.send(input)
        self.begun.set()
        await self.let_go.wait()
        return input


@dataclass
class Things:
    """What somebody has."""

    thread_id: str
    run_id: str
    checkpoint_id: str | None = None
    cron_id: str | None = None


@dataclass
class Place:
    """A server with the things of Ada, who is not the one that walks."""

    url: str
    app: Any
    ada: Any
    finished: Things
    running: Things
    unnamed: Things
    strangers: Things
    keys: dict[str, str] = field(default_factory=dict)

    def secrets(self) -> list[str]:
        """What no answer may have. A stranger who names a thing of hers may get its name back; one is never named."""
        it = self.unnamed
        return [SECRET, *(text for text in (it.thread_id, it.run_id, it.checkpoint_id, it.cron_id) if text)]


@asynccontextmanager
async def place_of(serve_agents: ServeAgents, auth: Path | None = None) -> AsyncIterator[Place]:
    """A place whose server has API keys, or asks a project's `Auth`, to which a key is a name and its permissions."""
    held = Held()
    access = AccessSettings(auth="keys" if auth is None else f"{auth}:auth")
    settings = {"access": access, "server": ServerSettings(heartbeat=0.05)}
    async with serve_agents({"chat": graph(), "held": held}, **settings) as served:
        keys = {"ada": "ada", "stranger": "bob", "reader": "bob:trackside:read", "root": "root:trackside:admin"}
        keys["maker"] = "bob:maker"
        if auth is None:
            keys = await keys_of(served.app.store.api_keys)
        async with (
            get_client(url=served.url, api_key=keys["ada"]) as ada,
            get_client(url=served.url, api_key=keys.get("maker", keys["stranger"])) as bob,
        ):
            finished = await things_of(ada, SECRET, held, waits=False)
            running = await things_of(ada, SECRET, held, waits=True)
            unnamed = await things_of(ada, SECRET, held, waits=False)
            strangers = await things_of(bob, "nothing", held, waits=False)
            try:
                yield Place(served.url, served.app, ada, finished, running, unnamed, strangers, keys)
            finally:
                held.let_go.set()


async def keys_of(made: Any) -> dict[str, str]:
    keys = {
        "ada": (await made.create("k", owner="ada")).secret,
        "stranger": (await made.create("k", owner="bob")).secret,
        "reader": (await made.create("k", owner="bob", permission="read")).secret,
        "root": (await made.create("k", owner="root", permission="admin")).secret,
    }
    revoked = await made.create("k", owner="ada", permission="admin")
    await made.revoke(revoked.key.key_id)
    keys["revoked"] = revoked.secret
    keys["expired"] = await expired(made)
    keys["unknown"] = f"ts_{'0' * 12}_{'0' * 64}"
    return keys


async def expired(made: Any) -> str:
    """A key that has ended by the moment at which it is made, as no key that anybody asks for has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api_keys, "_is_future", lambda said, now: True)
        key = await made.create("k", owner="ada", permission="admin", expires_at=datetime.now(UTC))
    return str(key.secret)


async def things_of(client: Any, text: str, held: Held, *, waits: bool) -> Things:
    thread_id, metadata = str(uuid4()), {"note": MARK, "more": text}
    await client.threads.create(thread_id=thread_id, metadata=metadata)
    run = await client.runs.create(thread_id, "held" if waits else "chat", input={"text": text}, metadata=metadata)
    it = Things(thread_id, run["run_id"])
    if waits:
        async with asyncio.timeout(60):
            await held.begun.wait()
        return it
    await client.runs.join(thread_id, run["run_id"])
    it.checkpoint_id = (await client.threads.get_state(it.thread_id))["checkpoint"]["checkpoint_id"]
    cron = await client.crons.create_for_thread(
        it.thread_id, "chat", schedule="0 0 1 1 *", input={"text": text}, metadata=metadata
    )
    it.cron_id = cron["cron_id"]
    if text == SECRET:
        await client.store.put_item(["ada", "notes"], key="secret", value=metadata)
    return it


@dataclass(frozen=True)
class Visit:
    """One request to one endpoint."""

    endpoint: Endpoint
    path: str
    body: Any
    query: dict[str, Any]
    what: str
    names_foreign_path: bool

    def __str__(self) -> str:
        return f"{self.endpoint.method} {self.endpoint.path} ({self.what})"


def visits(here: Place, there: Place | None = None) -> Iterator[Visit]:
    """Requests that name Ada's things, wherever an endpoint takes the name of one; or the same in another place."""
    place = there or here
    for endpoint in ENDPOINTS:
        for what, path, foreign, its in paths_of(endpoint, place):
            for it in its:
                for about, body in bodies_of(endpoint.body, it, str(endpoint.path)):
                    for asked, query in fillings(endpoint.query, it, str(endpoint.path)):
                        yield Visit(endpoint, path, body, query, f"{what}; {about}; {asked}", foreign)


def paths_of(endpoint: Endpoint, place: Place) -> Iterator[tuple[str, str, bool, list[Things]]]:
    names = [part[1:-1].partition(":")[0] for part in endpoint.path.split("/") if part.startswith("{")]
    unknown = set(names) - FOREIGN_PATHS - SHARED_PATHS
    assert not unknown, f"{endpoint.method} {endpoint.path}: say in the walk what {unknown} name"
    combinations = [("hers", place.finished, place.finished), ("hers, running", place.running, place.running)]
    if {"run_id", "checkpoint_id", "cron_id"} & set(names) and "thread_id" in names:
        combinations.append(("mine with hers", place.strangers, place.finished))
    for what, thread, rest in combinations:
        values = {
            "thread_id": thread.thread_id,
            "run_id": rest.run_id,
            "checkpoint_id": rest.checkpoint_id or place.finished.checkpoint_id or "1",
            "cron_id": rest.cron_id or place.finished.cron_id or place.finished.run_id,
            "assistant_id": "chat",
            "namespace": "x",
            "name": "nobody",
            "filename": "x",
            "subgraph": "x",
            "worker_id": "x",
        }
        path = "/".join(
            str(values[part[1:-1].partition(":")[0]]) if part.startswith("{") else part
            for part in endpoint.path.split("/")
        )
        if not FOREIGN_PATHS & set(names):
            yield "shared", path, False, [place.finished, place.running]
            return
        yield what, path, True, [rest]


def bodies_of(kind: Any, it: Things, where: str) -> Iterator[tuple[str, Any]]:
    while isinstance(kind, TypeAliasType) or get_origin(kind) is Annotated:
        kind = kind.__value__ if isinstance(kind, TypeAliasType) else get_args(kind)[0]
    if kind is None:
        yield "no body", None
    elif get_origin(kind) is list:
        for what, one in bodies_of(UNTYPED.get(where, get_args(kind)[0]), it, where):
            yield what, [one]
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from fillings(kind, it, where)
    else:
        options = get_args(kind)
        assert options, f"{where}: the walk does not know how to make a {kind}"
        for option in options:
            if option is not type(None):
                yield from bodies_of(option, it, where)


def fillings(kind: Any, it: Things, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What has to be there, and then each thing that names something of somebody's, one after the other."""
    if kind is None:
        yield "nothing asked", {}
        return
    fields = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    unknown = set(fields) - set(NAMED_BY) - PLAIN
    assert not unknown, f"{where}: say in the walk what {sorted(unknown)} of {kind.__name__} name"
    base = {name: REQUIRED[name] for name, one in fields.items() if one.required and name in REQUIRED}
    missing = {name for name, one in fields.items() if one.required} - set(base) - set(NAMED_BY)
    assert not missing, f"{where}: say in the walk what to send as {sorted(missing)} of {kind.__name__}"
    for name, one in fields.items():
        if one.required and name not in base:
            base[name] = NAMED_BY[name](it)
    yield "as little as may be", base
    for name in fields:
        if name in NAMED_BY and (value := NAMED_BY[name](it)) is not None:
            more = {"if_exists": "do_nothing"} if "if_exists" in fields else {}
            more |= {"if_not_exists": "create"} if "if_not_exists" in fields else {}
            yield f"her {name}", {**base, **more, name: value}


async def ask(http: httpx.AsyncClient, visit: Visit, key: str | None) -> tuple[int, str]:
    """The status, and what is said; of a stream, until it says that there is no more for now."""
    headers = {} if key is None else {"x-api-key": key}
    query = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in visit.query.items()}
    request = http.build_request(visit.endpoint.method, visit.path, params=query, json=visit.body, headers=headers)
    if visit.body is None:
        request = http.build_request(visit.endpoint.method, visit.path, params=query, headers=headers)
    answer = await http.send(request, stream=True)
    said = ""
    with suppress(TimeoutError):  # what goes on for ever has said enough by then
        async with asyncio.timeout(5):
            async for chunk in answer.aiter_text():
                said += chunk
                if visit.endpoint.media_type == EVENT_STREAM and "heartbeat" in said:
                    break
    await answer.aclose()
    location = " ".join(answer.headers.get(name, "") for name in ("location", "content-location"))
    return answer.status_code, f"{said} {location}"


async def inventory(place: Place) -> dict[str, Any]:
    """What is Ada's, as it is stored."""
    store = place.app.store
    found: dict[str, Any] = {}
    for it in (place.finished, place.running):
        thread = await store.thread(it.thread_id)
        runs = await store.runs(thread_id=it.thread_id, limit=100)
        found[f"thread {it.thread_id}"] = thread and (thread.status, thread.owner, dict(thread.metadata))
        found[f"runs of {it.thread_id}"] = sorted((run.run_id, run.status) for run in runs)
        found[f"events of {it.thread_id}"] = len(await store.events(thread_id=it.thread_id))
        if it.cron_id:
            found[f"cron {it.cron_id}"] = [
                cron["cron_id"] for cron in await place.ada.crons.search(thread_id=it.thread_id)
            ]
    item = await place.ada.store.get_item(["ada", "notes"], key="secret")
    found["item"] = item and item["value"]
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name, was in before.items():
        if was != after.get(name):
            yield f"{name} was {was}, is {after.get(name)}"
