"""The store API as LangGraph's SDK uses it; nobody sees another's items."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client, get_sync_client

from trackside import RunContext
from trackside.app.server.principal import Permission, Principal
from trackside.app.server.routes.items import label_of
from trackside.app.settings import AccessSettings

ADA = ["memories", "ada"]
EVE = ["memories", "eve"]


async def remembering(input: Any, run: RunContext) -> Any:
    assert run.items is not None
    await run.items.put(ADA, "tea", {"likes": "green", "asked": input})
    return {"keys": [item.key for item in await run.items.search(["memories"])]}


async def test_an_item_is_put_found_listed_and_deleted(serve_agents: Any) -> None:
    async with serve_agents({"remembering": remembering}) as served:
        store = served.client.store
        assert await store.put_item(ADA, key="coffee", value={"likes": "black", "cups": 2}, index=False, ttl=60) is None
        run = await served.client.runs.wait(None, "remembering", input={})
        one = await store.get_item(ADA, key="coffee", refresh_ttl=True)
        found = await store.search_items(
            ["memories"], filter={"cups": {"$gte": 2}}, limit=5, offset=0, refresh_ttl=False
        )
        everything = await store.search_items([])
        namespaces = await store.list_namespaces(prefix=["*"], suffix=["ada"], max_depth=1, limit=5, offset=0)
        assert await store.delete_item(ADA, key="coffee") is None
        missing = await store.get_item(ADA, key="coffee")

    assert run == {"keys": ["tea", "coffee"]}
    assert (one["namespace"], one["key"], one["value"]) == (ADA, "coffee", {"likes": "black", "cups": 2})
    assert one["created_at"] == one["updated_at"]
    assert found == {"items": [one | {"score": None}]}
    assert [item["key"] for item in everything["items"]] == ["tea", "coffee"]
    assert namespaces == {"namespaces": [["memories"]]}
    assert missing is None


async def test_the_client_that_waits_works_too(serve_agents: Any) -> None:
    def use(url: str) -> list[Any]:
        with get_sync_client(url=url, api_key=None) as client:
            client.store.put_item(ADA, key="k", value={"n": 1}, ttl=5)
            found: list[Any] = [client.store.get_item(ADA, key="k", refresh_ttl=False)["value"]]
            found += [item["value"] for item in client.store.search_items(ADA, filter={"n": 1})["items"]]
            found.append(client.store.list_namespaces()["namespaces"])
            client.store.delete_item(ADA, key="k")
            return [*found, client.store.get_item(ADA, key="k")]

    async with serve_agents({}) as served:
        assert await asyncio.to_thread(use, served.url) == [{"n": 1}, {"n": 1}, [ADA], None]


@pytest.mark.parametrize(
    ("method", "path", "body", "named"),
    [
        ("PUT", "items", {"namespace": ["a"], "key": "k", "value": {}, "index": ["text"]}, "index"),
        ("PUT", "items", {"namespace": [], "key": "k", "value": {}}, "namespace"),
        ("PUT", "items", {"namespace": ["a.b"], "key": "k", "value": {}}, "namespace"),
        ("PUT", "items", {"namespace": ["langgraph"], "key": "k", "value": {}}, "langgraph"),
        ("PUT", "items", {"namespace": ["a"], "key": "k", "value": [1]}, "value"),
        ("PUT", "items", {"namespace": ["a"], "key": "k", "value": {}, "ttl": -1}, "ttl"),
        ("PUT", "items", {"namespace": ["a"], "key": "k", "value": {}, "colour": 1}, "colour"),
        ("DELETE", "items", {"namespace": [""], "key": "k"}, "namespace"),
        ("POST", "items/search", {"namespace_prefix": ["a"], "query": "what?"}, "query"),
        ("POST", "items/search", {"filter": {"a": {"$in": []}}}, "in"),
        ("POST", "items/search", {"limit": 100_000}, "limit"),
        ("POST", "namespaces", {"max_depth": 0}, "max_depth"),
    ],
)
async def test_what_does_not_fit_is_named(serve_agents: Any, method: str, path: str, body: Any, named: str) -> None:
    async with serve_agents({}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.request(method, f"/store/{path}", json=body)

    assert answer.status_code == 422
    assert named in answer.json()["detail"]


async def test_a_query_without_a_namespace_is_refused(serve_agents: Any) -> None:
    async with serve_agents({}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.get("/store/items", params={"key": "k"})

    assert answer.status_code == 422
    assert "namespace" in answer.json()["detail"]


async def test_nobody_reaches_what_is_somebody_elses(serve_agents: Any) -> None:
    async with serve_agents({"remembering": remembering}, access=AccessSettings(auth="keys")) as served:
        keys = served.app.store.api_keys
        ada = (await keys.create("a", owner="ada")).secret
        eve = (await keys.create("e", owner="eve")).secret
        root = (await keys.create("r", owner="root", permission="admin")).secret
        async with (
            get_client(url=served.url, api_key=ada) as ada_client,
            get_client(url=served.url, api_key=eve) as eve_client,
            get_client(url=served.url, api_key=root) as root_client,
        ):
            await ada_client.store.put_item(ADA, key="k", value={"secret": 1})
            await ada_client.store.put_item(["ada", "notes"], key="k", value={})
            mine = await ada_client.store.search_items(ADA)
            listed = await ada_client.store.list_namespaces(prefix=ADA)
            await eve_client.store.put_item([*EVE, "ada"], key="k", value={})
            every = await root_client.store.search_items([])
            store = eve_client.store
            attempts: list[Callable[[], Any]] = [
                lambda: store.put_item(ADA, key="k", value={}),
                lambda: store.get_item(ADA, key="k"),
                lambda: store.delete_item(ADA, key="k"),
                lambda: store.search_items(ADA),
                lambda: store.search_items(["memories"]),
                lambda: store.search_items([]),
                store.list_namespaces,
                lambda: store.list_namespaces(suffix=["eve"]),
                lambda: store.list_namespaces(prefix=["*"]),
                lambda: store.list_namespaces(prefix=["*", "eve"]),
                lambda: store.list_namespaces(prefix=["memories", "*", "eve"]),
                lambda: store.put_item([*ADA, "eve"], key="k", value={"planted": 1}),
                lambda: store.put_item(["ada", "eve"], key="k", value={"planted": 1}),
                lambda: store.put_item(["ada", *EVE], key="k", value={"planted": 1}),
                lambda: store.search_items(["notes", "eve"]),
            ]
            for attempt in attempts:
                with pytest.raises(httpx.HTTPStatusError) as refused:
                    await attempt()
                assert refused.value.response.status_code == 403
                assert "'eve'" in refused.value.response.json()["detail"]
            # Agents are trusted, whoever started them.
            seen = await eve_client.runs.wait(None, "remembering", input={})

    assert [item["value"] for item in mine["items"]] == [{"secret": 1}]
    assert listed == {"namespaces": [ADA]}
    assert len(every["items"]) == 3
    assert seen == {"keys": ["tea", "k", "k"]}


async def test_which_labels_may_stand_before_a_name_is_set_and_nobody_has_what_all_have(serve_agents: Any) -> None:
    access = AccessSettings(auth="keys", item_kinds=("users", "memories"))
    async with serve_agents({}, access=access) as served:
        keys = served.app.store.api_keys
        ada = (await keys.create("a", owner="ada")).secret
        kind = (await keys.create("k", owner="users")).secret
        async with (
            get_client(url=served.url, api_key=ada) as ada_client,
            get_client(url=served.url, api_key=kind) as kind_client,
        ):
            for namespace in (["users", "ada"], ["users", "memories", "ada", "x"], ["ada"], ADA):
                await ada_client.store.put_item(namespace, key="k", value={})
            for namespace in (["users"], ["users", "users"], ["memories", "users"], ["users", "ada"]):
                with pytest.raises(httpx.HTTPStatusError) as refused:
                    await kind_client.store.search_items(namespace)
                assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("identity", "label"), [("ada", "ada"), ("ada@example.com", "ada@example%2Ecom"), ("*", "%2A"), ("a%2E", "a%252E")]
)
def test_everybody_has_a_label_of_his_own(identity: str, label: str) -> None:
    assert label_of(Principal(identity=identity, permission=Permission.run).owner or "") == label
