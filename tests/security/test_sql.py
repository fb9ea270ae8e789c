"""Any text in a filter, a search or an order is a value: it changes no statement, matches nothing but itself, and makes
no database fail.

The table of endpoints gives the fields: the tests fill each text field of each endpoint with each attack.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeAliasType, Union, get_args, get_origin
from urllib.parse import quote

import httpx
import msgspec
import pytest
from dialects import BOTH
from tests.integration.server.conftest import Served, serve

from trackside.app.server.examples import example_of
from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import EVENT_STREAM, Endpoint, all_endpoints
from trackside.app.settings import ServerSettings

ATTACKS = (
    "'; DROP TABLE runs; --",
    '"; DELETE FROM threads; SELECT pg_sleep(100); --',
    "') OR '1'='1' UNION SELECT digest FROM api_keys --",
    "x' || (SELECT digest FROM api_keys LIMIT 1) || '",
    ":name %(name)s %s ? $1 {0} \\'",
)
WILDCARDS = ("%", "_", "%'%", "*", "\\", "[a-z]", ".*", "a%")
ENDPOINTS = [one for one in all_endpoints(GROUPS) if one.refuses is None and one.media_type != EVENT_STREAM]
SEARCHES = [
    one
    for one in ENDPOINTS
    if "{" not in one.path and (one.method == "GET" or one.path.endswith(("/search", "/count", "/namespaces")))
]


async def echo(input: Any) -> Any:
    return input


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_with_tables"))
    path = tmp_path / "runs.db"
    path.write_bytes(request.getfixturevalue("sqlite_with_tables").read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
async def served(url: str) -> AsyncIterator[Served]:
    async with serve({"echo": echo}, url, server=ServerSettings(heartbeat=0.05)) as running:
        await running.app.store.api_keys.create("k", owner="ada")
        for name in ("a%b", "plain"):
            thread = await running.client.threads.create(metadata={"name": name})
            await running.client.runs.wait(thread["thread_id"], "echo", input={"n": name}, metadata={"name": name})
            await running.client.store.put_item(["notes", name], key=name, value={"name": name})
        yield running


def texts_of(kind: Any) -> Iterator[str]:
    """The fields of a struct that take a text, or a list or an object of some."""
    for one in msgspec.structs.fields(kind):
        if str in _parts(one.type):
            yield one.encode_name


def _parts(kind: Any) -> set[Any]:
    while isinstance(kind, TypeAliasType) or get_origin(kind) is Annotated:
        kind = kind.__value__ if isinstance(kind, TypeAliasType) else get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType, list, dict}:
        return set().union(*map(_parts, get_args(kind)))
    return {kind}


def requests_of(endpoint: Endpoint, attack: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Queries and bodies of an endpoint, with an attack in one field after another."""
    body = None if endpoint.body is None else example_of(endpoint)
    if endpoint.query is not None:
        for name in texts_of(endpoint.query):
            yield {name: attack}, body
    if isinstance(body, dict):
        for name, value in [*body.items(), *((name, None) for name in ("metadata", "sort_by", "status", "select"))]:
            for hostile in (attack, [attack], {attack: attack}, {"name": attack}):
                if value is None or isinstance(hostile, type(value)):
                    yield {}, {**body, name: hostile}


async def inventory(served: Served) -> tuple[str, Any]:
    """What every attack wants to learn, and what it wants to change."""
    store = served.app.store
    (key,) = await store.api_keys.all()
    return key.digest, ([run.run_id for run in await store.runs()], await store.threads(), await store.events())


async def test_no_value_changes_a_statement(served: Served) -> None:
    """The server may refuse anything or find nothing; nothing fails, and the stored data stay as they were."""
    before, wrong = await inventory(served), []
    async with httpx.AsyncClient(base_url=served.url) as http:
        for endpoint in SEARCHES:
            for attack in ATTACKS:
                for query, body in requests_of(endpoint, attack):
                    answer = await http.request(endpoint.method, endpoint.path, params=query, json=body)
                    if answer.status_code >= 500 or before[0] in answer.text:
                        wrong.append(f"{endpoint.method} {endpoint.path} {query} {body}: {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert await inventory(served) == before


async def test_no_part_of_a_path_changes_a_statement(served: Served) -> None:
    wrong = []
    async with httpx.AsyncClient(base_url=served.url) as http:
        for endpoint in ENDPOINTS:
            if "{" not in endpoint.path or endpoint.method != "GET":
                continue
            for attack in ATTACKS:
                parts = [attack if part.startswith("{") else part for part in endpoint.path.split("/")]
                path = "/".join(quote(part, safe="") for part in parts)
                answer = await http.get(path)
                if answer.status_code not in {400, 404, 422}:
                    wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)


async def test_a_wildcard_stands_for_itself(served: Served) -> None:
    """Otherwise a client that may search could find with it what it cannot name."""
    async with httpx.AsyncClient(base_url=served.url) as http:
        for wildcard in WILDCARDS:
            for path, body in (
                ("/threads/search", {"metadata": {"name": wildcard}}),
                ("/store/items/search", {"namespace_prefix": ["notes"], "filter": {"name": wildcard}}),
                ("/store/items/search", {"namespace_prefix": [wildcard]}),
            ):
                answer = await http.post(path, json=body)
                assert answer.status_code in {200, 422}, answer.text
                found = answer.json()
                assert answer.status_code == 422 or not (found["items"] if isinstance(found, dict) else found), path
            by_text = await http.get("/runs", params={"text": wildcard})
            assert by_text.status_code in {200, 422}
            if by_text.status_code == 200:
                named = {run["metadata"]["name"] for run in by_text.json()}
                assert named == ({"a%b"} if wildcard in "a%b" else set()), wildcard
