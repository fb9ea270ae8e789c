"""Clients with API keys, sent as LangGraph's SDK sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from speaking_agents import Held

from trackside.app.server.auth.keys import KeyAuthenticator
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Principal
from trackside.app.settings import AccessSettings, ServerSettings
from trackside.app.storage import Store
from trackside.app.storage.api_keys import ApiKey, ApiKeys, KeyPermission
from trackside.app.storage.errors import ReadLostError
from trackside.harness.ids import new_id

type ServeAgents = Callable[..., Any]

KEYS = AccessSettings(auth="keys")


async def echo(input: Any) -> Any:
    return input


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_who_has_a_key_runs_agents_and_nobody_else(serve_agents: ServeAgents, header: str) -> None:
    async with serve_agents({"echo": echo}, access=KEYS) as served:
        key = (await served.app.store.api_keys.create("laptop", owner="ada")).secret
        said = {"api_key": key} if header == "x-api-key" else {"headers": {"Authorization": f"Bearer {key}"}}
        async with get_client(url=served.url, **{"api_key": None} | said) as client:
            assert await client.runs.wait(None, "echo", input={"a": 1}) == {"a": 1}
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await served.client.runs.wait(None, "echo", input={"a": 1})
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["www-authenticate"] == "Bearer"


async def test_the_sdk_sends_its_own_key_beside_a_bearers(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}, access=KEYS) as served:
        key = (await served.app.store.api_keys.create("laptop", owner="ada")).secret
        headers = {"authorization": f"Bearer {key}"}
        async with get_client(url=served.url, api_key="lsv2_sk_of_somebody_else", headers=headers) as client:
            assert await client.runs.wait(None, "echo", input={"a": 1}) == {"a": 1}


async def test_a_revoked_key_is_refused_at_once(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}, access=KEYS) as served:
        made = await served.app.store.api_keys.create("laptop", owner="ada")
        async with get_client(url=served.url, api_key=made.secret) as client:
            await client.runs.wait(None, "echo", input=1)
            await served.app.store.api_keys.revoke(made.key.key_id)
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                await client.runs.wait(None, "echo", input=1)


async def test_a_request_that_is_made_again_finds_its_run_however_long_its_callers_name_is(
    serve_agents: ServeAgents,
) -> None:
    names, order = ("ada", "a" * 254 + "b", "a" * 254 + "c"), new_id()
    asked, batch = {"assistant_id": "echo", "input": 1}, [{"assistant_id": "echo", "input": n} for n in range(11)]

    async def made(url: str, key: str) -> list[str]:
        headers = {"X-Api-Key": key, "Idempotency-Key": order}
        async with httpx.AsyncClient(base_url=url, headers=headers) as http:
            one, more = await http.post("/runs", json=asked), await http.post("/runs/batch", json=batch)
            return [run["run_id"] for run in (one.json(), *more.json())]

    async with serve_agents({"echo": echo}, access=KEYS) as served:
        store = served.app.store
        keys = [(await store.api_keys.create("laptop", owner=name, permission="run")).secret for name in names]
        runs = [await made(served.url, key) for key in keys]
        assert [await made(served.url, key) for key in keys] == runs
        assert len({run for of_one in runs for run in of_one}) == 36
        assert await store.run_of_key(f"3/ada/{order}") == runs[0][0]  # as it has always been


async def test_a_read_only_key_starts_nothing(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}, access=KEYS) as served:
        made = await served.app.store.api_keys.create("look", owner="ada", permission="read")
        async with get_client(url=served.url, api_key=made.secret) as client:
            with pytest.raises(httpx.HTTPStatusError, match="403"):
                await client.runs.wait(None, "echo", input=1)


@pytest.mark.parametrize("way", ["stream", "join"])
async def test_a_read_only_key_looks_on_and_cancels_nothing(serve_agents: ServeAgents, way: str) -> None:
    go_on = asyncio.Event()

    async def waits(input: Any) -> dict[str, bool]:
        await go_on.wait()
        return {"done": True}

    async with serve_agents({"waits": waits}, access=KEYS) as served:
        keys = served.app.store.api_keys
        owner, reader = [
            httpx.AsyncClient(base_url=served.url, headers={"x-api-key": made.secret})
            for made in (
                await keys.create("own", owner="ada"),
                await keys.create("look", owner="ada", permission="read"),
            )
        ]
        async with owner, reader:
            asked = {"assistant_id": "waits", "if_not_exists": "create"}
            run = (await owner.post(f"/threads/{new_id()}/runs", json=asked)).json()
            for place in (f"/threads/{run['thread_id']}/runs", "/runs"):
                path = f"{place}/{run['run_id']}/{way}"
                refused = await reader.get(path, params={"cancel_on_disconnect": "true"})
                assert (refused.status_code, "cancel_on_disconnect" in refused.text) == (403, True)
            go_on.set()
            assert (await reader.get(path, params={"cancel_on_disconnect": "false"})).status_code == 200
            assert (await owner.get(path, params={"cancel_on_disconnect": "true"})).status_code == 200


async def test_health_is_for_everybody(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}, access=KEYS) as served, httpx.AsyncClient(base_url=served.url) as http:
        assert (await http.get("/ok")).json() == {"ok": True}
        assert (await http.get("/nothing")).status_code == 401
        assert (await http.post("/ok")).status_code == 405


async def test_a_key_that_is_nearly_right_is_wrong(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}, access=KEYS) as served, httpx.AsyncClient(base_url=served.url) as http:
        key = (await served.app.store.api_keys.create("laptop", owner="ada")).secret
        last = "0" if key[-1] != "0" else "1"
        for wrong in (key[:-1] + last, key[:-1], key + "0", key.upper(), "ts_", "", "ü", f"{key},{key}"):
            answer = await http.get("/nothing", headers={"x-api-key": wrong.encode("latin-1")})
            assert answer.status_code == 401
            assert key not in answer.text
        assert (await http.get("/nothing", headers={"x-api-key": key})).status_code == 404


class CountedKeys(ApiKeys):
    """The keys of a store, and how often they were read."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._writer, store._readers)
        self.reads = 0

    async def good(self) -> list[ApiKey]:
        self.reads += 1
        return await super().good()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def scope_with(key: str) -> dict[str, Any]:
    return {"type": "http", "headers": [(b"x-api-key", key.encode())]}


@pytest.fixture
async def opened(database_url: str) -> Any:
    async with Store.open(database_url) as store:
        yield store


async def test_requests_cost_no_look_into_the_database(opened: Store) -> None:
    keys, clock = CountedKeys(opened), Clock()
    made = [await keys.create(f"k{number}", owner="ada") for number in range(3)]
    known = KeyAuthenticator(keys, clock=clock)
    for _ in range(100):
        for one in made:
            assert (await known(scope_with(one.secret))).identity == "ada"
    assert keys.reads == 1
    clock.now += 2.5
    await known(scope_with(made[0].secret))
    assert keys.reads == 2


async def test_whoever_guesses_costs_four_looks_a_second_and_no_memory(opened: Store) -> None:
    keys, clock = CountedKeys(opened), Clock()
    known = KeyAuthenticator(keys, clock=clock)
    for number in range(1_000):
        with pytest.raises(HttpError):
            await known(scope_with(f"ts_{number:012x}_{number:064x}"))
        clock.now += 0.001
    assert keys.reads <= 5
    assert not known._good


class SlowKeys(CountedKeys):
    """Keys whose reads take longer than what they bring is believed."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store)
        self.clock = clock

    async def good(self) -> list[ApiKey]:
        self.clock.now += 1
        good = await super().good()
        self.clock.now += 3
        return good


async def test_clients_that_ask_at_once_share_a_look_however_slow_it_is(opened: Store) -> None:
    clock = Clock()
    keys = SlowKeys(opened, clock)
    made = await keys.create("k", owner="ada")
    known = KeyAuthenticator(keys, clock=clock)
    unknown = (f"ts_{number:012x}_{number:064x}" for number in range(50))
    asked = [known(scope_with(secret)) for secret in (made.secret, *unknown)]
    first, *others = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(first, Principal)
    assert {type(other) for other in others} == {HttpError}
    assert keys.reads <= 2  # one that had begun when others asked, and one for these


async def test_what_another_process_makes_and_revokes_is_known_in_seconds(opened: Store, database_url: str) -> None:
    clock = Clock()
    known = KeyAuthenticator(opened.api_keys, clock=clock)
    async with Store.open(database_url) as elsewhere:
        made = await elsewhere.api_keys.create("ci", owner="ada", permission="admin")
        assert (await known(scope_with(made.secret))).owner is None
        second = await elsewhere.api_keys.create("ci", owner="bob")
        clock.now += 0.3
        assert (await known(scope_with(second.secret))).owner == "bob"
        await elsewhere.api_keys.revoke(made.key.key_id)
        clock.now += 2.1
        with pytest.raises(HttpError, match="no longer valid"):
            await known(scope_with(made.secret))


class RevokingKeys(CountedKeys):
    """Keys of which one is revoked during a read: what was read still has it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.to_revoke: str | None = None

    async def good(self) -> list[ApiKey]:
        good = await super().good()
        if self.to_revoke is not None:
            key_id, self.to_revoke = self.to_revoke, None
            await self.revoke(key_id)
        return good


async def test_what_is_revoked_here_while_keys_are_read_is_not_good_at_the_next_request(opened: Store) -> None:
    keys = RevokingKeys(opened)
    made = await keys.create("k", owner="ada")
    known = KeyAuthenticator(keys, clock=Clock())
    keys.to_revoke = made.key.key_id
    assert (await known(scope_with(made.secret))).identity == "ada"
    with pytest.raises(HttpError, match="no longer valid"):
        await known(scope_with(made.secret))


class AwayKeys(CountedKeys):
    """The keys of a store whose database is away; each read finds this out when it is told to."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.is_away = True
        self.gives_up = asyncio.Event()

    async def good(self) -> list[ApiKey]:
        if not self.is_away:
            return await super().good()
        self.reads += 1
        await self.gives_up.wait()
        raise ReadLostError(database="the log", why="it is away")


async def test_while_the_database_is_away_all_are_told_what_one_has_waited_for(
    opened: Store, caplog: pytest.LogCaptureFixture
) -> None:
    keys, clock = AwayKeys(opened), Clock()
    made = await keys.create("k", owner="ada")
    known = KeyAuthenticator(keys, clock=clock)

    async def refused() -> Mapping[str, Any]:
        with pytest.raises(HttpError) as told:
            await known(scope_with(made.secret))
        return told.value.details

    asking = [asyncio.create_task(refused()) for _ in range(10)]
    await asyncio.sleep(0)
    keys.gives_up.set()
    for told in await asyncio.gather(*asking):
        assert told["status"] == 503
        assert told["headers"] == {"Retry-After": "1"}
    assert keys.reads == 1
    clock.now += 0.3
    await refused()
    assert keys.reads == 2
    assert len(caplog.messages) == 1, "an outage is said once"
    keys.is_away = False
    clock.now += 0.3
    assert (await known(scope_with(made.secret))).identity == "ada"


@pytest.mark.parametrize("permission", ["read", "run", "admin"])
async def test_what_a_key_may_do_is_what_was_said(opened: Store, permission: KeyPermission) -> None:
    made = await opened.api_keys.create("k", owner="ada", permission=permission)
    principal = await KeyAuthenticator(opened.api_keys)(scope_with(made.secret))
    assert principal.permission == permission
    assert made.secret not in repr(principal)


async def test_a_key_ends_by_the_clock_though_it_is_held(opened: Store) -> None:
    made = await opened.api_keys.create("k", owner="ada", expires_at=datetime.now(UTC) + timedelta(hours=1))
    known = KeyAuthenticator(opened.api_keys)
    await known(scope_with(made.secret))
    key, principal = known._good[made.key.key_id]
    ended = ApiKey(**{name: getattr(key, name) for name in ApiKey.__slots__} | {"expires_at": datetime.now(UTC)})
    known._good[made.key.key_id] = ended, principal
    with pytest.raises(HttpError, match="no longer valid"):
        await known(scope_with(made.secret))


async def waits(input: Any) -> Any:
    await asyncio.Event().wait()


async def test_streams_end_that_were_begun_with_a_key_that_is_revoked(serve_agents: ServeAgents) -> None:
    quick = ServerSettings(heartbeat=0.05)
    async with serve_agents({"waits": waits}, access=KEYS, server=quick, shutdown_grace=0.0) as served:
        made = await served.app.store.api_keys.create("laptop", owner="ada")
        headers = {"x-api-key": made.secret}
        async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=20) as http:
            thread = (await http.post("/threads", json={})).json()["thread_id"]
            run = (await http.post(f"/threads/{thread}/runs", json={"assistant_id": "waits", "input": 1})).json()
            streams = [
                ("GET", "/events/stream", None),
                ("GET", f"/threads/{thread}/stream", None),
                ("GET", f"/threads/{thread}/runs/{run['run_id']}/stream", None),
                ("POST", f"/threads/{thread}/stream/events", {"channels": ["values"]}),
            ]
            async with asyncio.TaskGroup() as group:
                begun = [asyncio.Event() for _ in streams]
                read = [
                    group.create_task(_read_to_the_end(http, stream, event))
                    for stream, event in zip(streams, begun, strict=True)
                ]
                for event in begun:
                    await event.wait()
                await served.app.store.api_keys.revoke(made.key.key_id)
        for task in read:
            assert task.result().endswith(": this API key is not known, or no longer valid\r\n\r\n")


async def test_who_waits_for_a_run_is_told_nothing_of_it_once_his_key_is_revoked(serve_agents: ServeAgents) -> None:
    go_on = asyncio.Event()

    async def answers(input: Any) -> Any:
        await go_on.wait()
        return "secret"

    quick = ServerSettings(heartbeat=0.05)
    async with serve_agents({"answers": answers}, access=KEYS, server=quick) as served:
        keys = served.app.store.api_keys
        made, other = await keys.create("laptop", owner="ada"), await keys.create("phone", owner="ada")
        asked = {"assistant_id": "answers", "input": 1}
        async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": made.secret}, timeout=20) as http:
            thread = (await http.post("/threads", json={})).json()["thread_id"]
            run = (await http.post(f"/threads/{thread}/runs", json=asked)).json()["run_id"]
            waits = [
                ("POST", "/runs/wait", asked),
                ("POST", f"/threads/{thread}/runs/wait", asked),
                ("GET", f"/threads/{thread}/runs/{run}/join", None),
                ("GET", f"/runs/{run}/join", None),
            ]
            begun = [asyncio.Event() for _ in waits]
            async with asyncio.TaskGroup() as group:
                read = [
                    group.create_task(_read_until_cut_off(http, wait, event))
                    for wait, event in zip(waits, begun, strict=True)
                ]
                for event in begun:
                    await event.wait()
                await keys.revoke(made.key.key_id)
        go_on.set()
        for task in read:
            assert task.result().strip("\n") == ""
        async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": other.secret}, timeout=20) as http:
            assert (await http.get(f"/runs/{run}/join")).json() == {"output": "secret"}


@pytest.mark.parametrize("way", ["wait", "stream", "join", "join_stream"])
async def test_a_run_that_ends_with_its_client_does_so_when_his_key_is_revoked(
    serve_agents: ServeAgents, way: str
) -> None:
    held = Held()
    quick = ServerSettings(heartbeat=0.05)
    async with serve_agents({"held": held.agent()}, access=KEYS, server=quick, shutdown_grace=0.0) as served:
        made = await served.app.store.api_keys.create("laptop", owner="ada")
        async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": made.secret}, timeout=20) as http:
            thread = (await http.post("/threads", json={})).json()["thread_id"]
            body = {"assistant_id": "held", "on_disconnect": "cancel"}
            asked: tuple[str, str, Any] = ("POST", f"/threads/{thread}/runs/{way}", body)
            if way.startswith("join"):
                run = (await http.post(f"/threads/{thread}/runs", json={"assistant_id": "held"})).json()["run_id"]
                path = f"/threads/{thread}/runs/{run}/{'join' if way == 'join' else 'stream'}"
                asked = "GET", f"{path}?cancel_on_disconnect=true", None
            begun = asyncio.Event()
            read = _read_to_the_end if way.endswith("stream") else _read_until_cut_off
            reading = asyncio.create_task(read(http, asked, begun))
            await begun.wait()
            await held.started.wait()
            await served.app.store.api_keys.revoke(made.key.key_id)
            await reading
        await asyncio.wait_for(held.cancelled.wait(), 20)


async def _read_until_cut_off(http: httpx.AsyncClient, wait: tuple[str, str, Any], begun: asyncio.Event) -> str:
    said: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await _read_to_the_end(http, wait, begun, said)
    return "".join(said)


async def _read_to_the_end(
    http: httpx.AsyncClient, stream: tuple[str, str, Any], begun: asyncio.Event, said: list[str] | None = None
) -> str:
    method, path, body = stream
    said = [] if said is None else said
    async with http.stream(method, path, json=body) as answer:
        assert answer.status_code == 200
        async for text in answer.aiter_text():
            begun.set()
            said.append(text)
    return "".join(said)
