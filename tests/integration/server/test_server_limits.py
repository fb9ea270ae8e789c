"""How often a client may ask, and how much it may follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.app.server import rates
from trackside.app.server.failures import HttpError
from trackside.app.server.rates import OpenStreams, Rate
from trackside.app.server.responses import encoded_headers
from trackside.app.settings import AccessSettings, ServerSettings

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]


async def echo(input: Any) -> Any:
    return input


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def refused(rate: Rate, client: str) -> int | None:
    try:
        rate.take(client)
    except HttpError as exc:
        said = exc.details
    else:
        return None
    assert said["status"] == 429
    return int(said["headers"]["Retry-After"])


def test_a_window_moves() -> None:
    clock = Clock()
    rate = Rate("3/10 seconds", clock=clock)
    assert [refused(rate, "ada") for _ in range(3)] == [None] * 3
    assert refused(rate, "ada") == 10
    assert refused(rate, "bob") is None
    clock.now += 4.5
    assert refused(rate, "ada") == 6
    clock.now += 5.5
    assert refused(rate, "ada") is None


@given(st.lists(st.floats(0, 3), max_size=60))
def test_no_window_ever_has_more(pauses: list[float]) -> None:
    clock = Clock()
    rate = Rate("5/second", clock=clock)
    let_in: list[float] = []
    for pause in pauses:
        clock.now += pause
        if refused(rate, "ada") is None:
            let_in.append(clock.now)
        assert len([when for when in let_in if when > clock.now - 1.0]) <= 5


def test_of_many_clients_the_latest_are_counted() -> None:
    rate = Rate("1/hour")
    for number in range(10_001):
        assert refused(rate, str(number)) is None
    assert len(rate._asked) == 10_000
    assert refused(rate, "10000") is not None


def test_who_goes_on_asking_is_not_forgotten_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_CLIENTS", 2)
    rate = Rate("2/hour")
    assert [refused(rate, client) for client in ("ada", "bob", "ada", "cleo")] == [None] * 4
    assert refused(rate, "ada") is not None


async def test_who_asks_too_often_is_told_when_to_ask_again(serve_agents: ServeAgents) -> None:
    access = AccessSettings(auth="keys", rate="5/hour")
    async with serve_agents({"echo": echo}, access=access) as served, httpx.AsyncClient(base_url=served.url) as http:
        ada = {"x-api-key": (await served.app.store.api_keys.create("k", owner="ada")).secret}
        bob = {"x-api-key": (await served.app.store.api_keys.create("k", owner="bob")).secret}
        answers = [await http.get("/agents", headers=ada) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert 3_500 < int(answers[-1].headers["retry-after"]) <= 3_600
        assert "5/hour" in answers[-1].json()["detail"]
        assert (await http.get("/agents", headers=bob)).status_code == 200
        guesses = [
            (await http.get("/agents", headers={"x-api-key": f"ts_{n:012x}_{n:064x}"})).status_code for n in range(6)
        ]
        assert guesses == [401] * 5 + [429]


@pytest.mark.usefixtures("any_pace")
@pytest.mark.parametrize("auth", ["none", "keys"])
async def test_whether_a_server_lives_is_told_however_often_others_have_asked(
    serve_agents: ServeAgents, auth: Any
) -> None:
    access = AccessSettings(auth=auth, rate="2/hour")
    async with serve_agents({"echo": echo}, access=access) as served, httpx.AsyncClient(base_url=served.url) as http:
        probes = ["/health/live", "/health/ready", "/ok", "/ok?check_db=1"]
        assert [(await http.get(path)).status_code for path in probes] == [200] * 4
        assert [(await http.get("/info")).status_code for _ in range(3)] == [200, 200, 429]
        assert [(await http.get(path)).status_code for path in probes] == [200] * 4
        assert (await http.head("/health/live")).status_code == 200


async def test_a_client_follows_so_many_streams_and_no_more(serve_agents: ServeAgents) -> None:
    access = AccessSettings(auth="keys", max_streams=3)
    settings = {"access": access, "server": ServerSettings(heartbeat=0.05)}
    async with serve_agents({"echo": echo}, **settings) as served, httpx.AsyncClient(base_url=served.url) as http:
        ada = {"x-api-key": (await served.app.store.api_keys.create("k", owner="ada")).secret}
        bob = {"x-api-key": (await served.app.store.api_keys.create("k", owner="bob")).secret}
        async with AsyncExitStack() as stack:
            for _ in range(3):
                answer = await stack.enter_async_context(http.stream("GET", "/events/stream", headers=ada))
                assert answer.status_code == 200
            one_too_many = await http.get("/events/stream", headers=ada)
            assert one_too_many.status_code == 429
            assert "3 streams" in one_too_many.json()["detail"]
            async with http.stream("GET", "/events/stream", headers=bob) as answer:
                assert answer.status_code == 200
            assert (await http.get("/agents", headers=ada)).status_code == 200
        async with asyncio.timeout(20):  # the server lets them go as soon as it sees that nobody reads them
            while True:
                async with http.stream("GET", "/events/stream", headers=ada) as answer:
                    if answer.status_code == 200:
                        break


def test_streams_that_ended_are_forgotten() -> None:
    streams = OpenStreams(2)
    streams.enter("ada")
    streams.enter("ada")
    with pytest.raises(HttpError):
        streams.enter("ada")
    streams.leave("ada")
    streams.enter("ada")
    streams.leave("ada")
    streams.leave("ada")
    assert not streams._open


@given(st.dictionaries(st.sampled_from(["Location", "Retry-After"]), st.text(max_size=50)))
def test_no_header_of_ours_ends_a_line_or_fails(headers: dict[str, str]) -> None:
    for name, value in encoded_headers(headers):
        assert name == name.lower()
        assert not set(value) & {*range(9), *range(10, 32), 127}


async def test_json_that_is_deep_is_refused_or_taken_and_breaks_nothing(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        for depth in (100, 500, 900, 1_000, 2_000, 100_000):
            deep = "[" * depth + "]" * depth
            for body in (
                f'{{"assistant_id": "echo", "input": {{"x": {deep}}}}}',
                f'{{"assistant_id": "echo", "input": {{"x": 1}}, "metadata": {{"x": {deep}}}}}',
                f'{{"assistant_id": "echo", "input": {{"x": 1}}, "config": {{"configurable": {{"x": {deep}}}}}}}',
            ):
                answer = await http.post("/runs/wait", content=body, headers={"content-type": "application/json"})
                assert answer.status_code in {200, 422}, (depth, answer.text[:200])
        assert (await http.post("/runs/wait", json={"assistant_id": "echo", "input": {"a": 1}})).json() == {"a": 1}
