"""Receivers that are told how runs have ended: once the end is stored, and whatever dies in between."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from dataclasses import replace
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from langgraph_sdk.runtime import ServerRuntime
from webhook_receiver import NEW, WebhookReceiver, silence, status

from trackside import AgentLimits, RunContext, RunSpec, current_run
from trackside.app.delivery import RUN_WEBHOOKS
from trackside.app.server import run_webhooks
from trackside.app.server.outcomes import thread_values
from trackside.app.settings import AccessSettings, ServerSettings
from trackside.app.storage.errors import DatabaseBusyError
from trackside.app.wiring.errors import AddressNeededError

PRIVATE = ServerSettings(private_webhooks=True, webhook_secret=NEW)


async def echo(input: Any, run: RunContext) -> dict[str, Any]:
    return {"given": input}


class Said(TypedDict, total=False):
    said: str


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


async def asking(input: Any, run: RunContext) -> dict[str, Any]:
    return {"answered": run.interrupt("sure?")}


async def told(receiver: WebhookReceiver, count: int = 1, *, patience: float = 60) -> list[dict[str, Any]]:
    """Wait until a receiver was told so many times, and return everything it was told."""
    await asyncio.wait_for(receiver.until(count), patience)
    return [json.loads(request.body) for request in receiver.requests]


async def test_a_receiver_gets_the_run_as_clients_see_it_signed_and_with_its_values(serve_agents: Any) -> None:
    agents = {"echo": echo, "failing": failing, "asking": asking}
    async with WebhookReceiver(NEW) as receiver, serve_agents(agents, server=PRIVATE) as served:
        runs = served.client.runs
        await runs.wait(None, "echo", input={"n": 1}, webhook=receiver.url, metadata={"by": "test"})
        (first,) = await told(receiver)
        assert {**first, "metadata": None}["status"] == "success"
        assert first["values"] == {"given": {"n": 1}}
        assert first["kwargs"]["input"] == {"n": 1}
        assert first["metadata"] == {"by": "test"}
        assert "user_id" not in first  # no caller had to identify himself
        assert first["webhook_sent_at"] >= first["run_ended_at"] >= first["run_started_at"]
        assert receiver.requests[0].verified == (True,)
        await runs.wait(None, "failing", webhook=receiver.url, raise_error=False)
        failed = (await told(receiver, 2))[1]
        assert (failed["status"], failed["error"]) == (
            "error",
            {"error": "ValueError", "message": "it cannot be done"},
        )
        await runs.wait(None, "asking", webhook=receiver.url, on_completion="keep")
        asked = (await told(receiver, 3))[2]
        assert [question["value"] for question in asked["values"]["__interrupt__"]] == ["sure?"]


async def test_the_secret_may_stand_in_the_environment(serve_agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_WEBHOOK_SECRET", NEW)
    settings = ServerSettings(private_webhooks=True, webhook_secret="env:RUN_WEBHOOK_SECRET")
    async with WebhookReceiver(NEW) as receiver, serve_agents({"echo": echo}, server=settings) as served:
        await served.client.runs.wait(None, "echo", input={}, webhook=receiver.url)
        await told(receiver)
        assert receiver.requests[0].verified == (True,)


async def test_one_receiver_that_fails_holds_up_no_other_and_is_told_again(serve_agents: Any) -> None:
    async with (
        WebhookReceiver(NEW) as bad,
        WebhookReceiver(NEW) as good,
        serve_agents({"echo": echo}, server=PRIVATE) as served,
    ):
        bad.answers.extend([status(503)] * 2)
        for receiver in (bad, good):
            await served.client.runs.wait(None, "echo", webhook=receiver.url)
        await told(good)
        (first, *_, last) = await told(bad, 3)
        assert first["run_id"] == last["run_id"]
        assert len({request.headers["webhook-id"] for request in bad.requests}) == 1


@pytest.mark.long
async def test_many_ends_for_a_server_that_is_away_hold_up_no_other(serve_agents: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # nothing listens
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}/hook"
        async with WebhookReceiver(NEW) as good, serve_agents({"echo": echo}, server=PRIVATE) as served:
            for count in (1_000, 100):
                await served.client.runs.create_batch([{"assistant_id": "echo", "webhook": away}] * count)
            await served.client.runs.wait(None, "echo", webhook=good.url)
            await told(good, patience=120)  # a thousand others are tried before it
            standing = await served.app.store.subscriptions.get(RUN_WEBHOOKS)
            assert standing.behind > 1_000  # those before it have not been given up yet


async def test_a_receiver_is_told_by_whoever_serves_next(serve_agents: Any) -> None:
    async with WebhookReceiver(NEW) as receiver:
        receiver.answers.append(status(503, {"Retry-After": "3600"}))
        async with serve_agents({"echo": echo}, server=PRIVATE) as served:
            await served.client.runs.wait(None, "echo", input={"n": 1}, webhook=receiver.url)
            await told(receiver)
        async with serve_agents({"echo": echo}, server=PRIVATE):
            again = (await told(receiver, 2))[1]
        assert again["status"] == "success"
        assert again["kwargs"]["input"] == {"n": 1}


async def test_a_receiver_waits_for_values_that_the_database_has_and_does_not_give_at_once(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    async def values_at_the_second_try(*args: Any, **options: Any) -> Any:
        asked.append(bool(asked))
        if not asked[-1]:
            raise DatabaseBusyError(database="runs.db", seconds=5)
        return await thread_values(*args, **options)

    async with WebhookReceiver(NEW) as receiver:
        receiver.answers.append(status(503, {"Retry-After": "3600"}))
        async with serve_agents({"echo": echo}, server=PRIVATE) as served:
            thread_id = (await served.client.threads.create())["thread_id"]
            await served.client.runs.wait(thread_id, "echo", input={"n": 1}, webhook=receiver.url)
            await told(receiver)
        monkeypatch.setattr(run_webhooks, "thread_values", values_at_the_second_try)
        async with serve_agents({"echo": echo}, server=PRIVATE):  # this server has not heard what the run said
            again = (await told(receiver, 2))[1]

    assert again["values"] == {"given": {"n": 1}}
    assert asked == [False, True]


async def test_a_receiver_that_does_not_answer_holds_up_no_server_that_stops(serve_agents: Any) -> None:
    async with WebhookReceiver(NEW) as receiver:
        receiver.answers.append(silence)
        async with serve_agents({"echo": echo}, server=PRIVATE) as served:
            await served.client.runs.wait(None, "echo", webhook=receiver.url)
            await told(receiver)
        async with serve_agents({"echo": echo}, server=PRIVATE) as served:
            await told(receiver, 2)
            standing = await served.app.store.subscriptions.get(RUN_WEBHOOKS)
        assert standing.last_error is None  # the call was abandoned, and not waited for until its time was up


async def test_a_receiver_is_told_as_which_run_one_goes_on_that_a_closing_server_has_cancelled(
    serve_agents: Any,
) -> None:
    async def patient(input: Any, run: RunContext) -> dict[str, Any]:
        if run.attempt == 1:
            await asyncio.Event().wait()
        return {"attempt": run.attempt}

    served_so: Any = {"server": PRIVATE, "limits": {"patient": AgentLimits(max_attempts=2)}, "shutdown_grace": 0.0}
    async with WebhookReceiver(NEW) as receiver:
        async with serve_agents({"patient": patient}, **served_so) as served:
            thread = (await served.client.threads.create())["thread_id"]
            run = await served.client.runs.create(thread, "patient", input={}, webhook=receiver.url)
            async for _ in served.app.store.follow(run_id=run["run_id"], types="run_started"):
                break
        async with serve_agents({"patient": patient}, **served_so) as served:
            ends = {one["run_id"]: one for one in await told(receiver, 2)}
        (again,) = ends.keys() - {run["run_id"]}
        assert (ends[run["run_id"]]["status"], ends[run["run_id"]]["retried_as"]) == ("interrupted", again)
        assert "retry_of" not in ends[run["run_id"]]
        assert (ends[again]["status"], ends[again]["retry_of"]) == ("success", run["run_id"])
        assert "retried_as" not in ends[again]


async def test_a_receiver_is_told_by_a_server_that_was_there_before_anybody_named_one(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_webhooks, "LOOK_EVERY", 0.05)

    async def patient(input: Any, run: RunContext) -> None:
        if run.attempt == 1:
            await asyncio.Event().wait()

    served_so: Any = {"server": PRIVATE, "limits": {"patient": AgentLimits(max_attempts=2)}, "shutdown_grace": 0.0}
    async with WebhookReceiver(NEW) as receiver, serve_agents({"patient": patient}, **served_so):
        async with serve_agents({"patient": patient}, **served_so) as asked:
            run = await asked.client.runs.create(None, "patient", webhook=receiver.url)
            async for _ in asked.app.store.follow(run_id=run["run_id"], types="run_started"):
                break
        ends = await told(receiver, 2)
        assert sorted(end["status"] for end in ends) == ["interrupted", "success"]


async def test_a_receiver_is_told_though_somebody_has_deleted_the_subscription_before_it_was_named(
    serve_agents: Any,
) -> None:
    async with WebhookReceiver(NEW) as receiver, serve_agents({"echo": echo}, server=PRIVATE) as served:
        for number in (1, 2, 3):
            await served.client.runs.wait(None, "echo", input={"n": number}, webhook=receiver.url)
            assert (await told(receiver, number))[-1]["values"] == {"given": {"n": number}}
            await served.app.store.subscriptions.delete(RUN_WEBHOOKS)


async def test_the_receiver_of_a_crons_runs_is_told_though_somebody_has_deleted_the_subscription_since(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_webhooks, "LOOK_EVERY", 0.05)
    async with WebhookReceiver(NEW) as receiver, serve_agents({"echo": echo}, server=PRIVATE) as served:
        asked: Any = {"schedule": "0 0 1 1 *", "input": {"n": 1}, "webhook": receiver.url, "on_run_completed": "keep"}
        cron_id = (await served.client.crons.create("echo", **asked))["cron_id"]
        await served.app.store.subscriptions.delete(RUN_WEBHOOKS)
        cron = await served.app.store.crons.get(cron_id)
        assert await served.app.store.crons.replace(cron, replace(cron, next_run_at=cron.created_at))  # the cron is due
        (end,) = await told(receiver)
    assert (end["status"], end["values"]) == ("success", {"given": {"n": 1}})


async def test_a_graph_that_is_made_for_who_asks_is_made_for_who_has_asked_for_the_run(serve_agents: Any) -> None:
    async def make(runtime: ServerRuntime) -> Any:
        user = runtime.ensure_user()
        return StateGraph(Said).add_node("say", lambda state: {"said": user.identity}).add_edge(START, "say").compile()

    served_so: Any = {"access": AccessSettings(auth="keys"), "server": PRIVATE}
    async with WebhookReceiver(NEW) as receiver:
        receiver.answers.append(status(503, {"Retry-After": "3600"}))
        async with serve_agents({"made": make}, **served_so) as served:
            key = await served.app.store.api_keys.create("ada", owner="ada", permission="run")
            async with get_client(url=served.url, api_key=key.secret) as ada:
                asked: Any = {"webhook": receiver.url, "on_completion": "keep"}
                await ada.runs.wait(None, "made", input={}, **asked)
                await told(receiver)
        async with serve_agents({"made": make}, **served_so):
            again = (await told(receiver, 2))[1]
    assert again["values"] == {"said": "ada"}


@pytest.mark.parametrize("first", ["ada", "nobody"])
async def test_what_says_what_a_thread_is_asks_as_nobody_while_whoever_named_the_first_receiver_waits(
    serve_agents: Any, first: str
) -> None:
    begun, ending = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []

    async def holding(input: Any) -> None:
        begun.set()
        await ending.wait()

    async def naming(input: Any) -> None:
        await get_client().runs.wait(None, "holding", webhook=input["webhook"])

    async def make(runtime: ServerRuntime) -> Any:
        if runtime.access_context == "threads.read":
            seen.append(current_run())
            try:
                seen.append(await get_client().threads.count())
            except AddressNeededError as exc:
                seen.append(type(exc))
        return StateGraph(Said).add_node("say", lambda state: {"said": "it"}).add_edge(START, "say").compile()

    served_so: Any = {"access": AccessSettings(auth="keys"), "server": PRIVATE}
    agents = {"holding": holding, "naming": naming, "made": make}
    async with WebhookReceiver(NEW) as receiver, serve_agents(agents, **served_so) as served:
        key_of = {
            who: await served.app.store.api_keys.create(who, owner=who, permission="run") for who in ("ada", "bob")
        }
        ada, bob = (get_client(url=served.url, api_key=key_of[who].secret) for who in ("ada", "bob"))
        async with ada, bob, asyncio.TaskGroup() as waits:
            if first == "ada":
                waits.create_task(ada.runs.wait(None, "holding", webhook=receiver.url))
            else:
                run = await served.app.manager.start(RunSpec("naming", {"webhook": receiver.url}))
                waits.create_task(run.result())
            await begun.wait()
            thread_id = (await bob.threads.create())["thread_id"]
            await bob.runs.create(thread_id, "made", input={}, stream_mode="updates", webhook=receiver.url)
            (end,) = await told(receiver)
            ending.set()
    assert (end["user_id"], end["values"]) == ("bob", {"said": "it"})
    assert seen == [None, AddressNeededError]


async def test_a_receiver_is_told_who_has_asked_for_the_run_and_no_client_says_that_for_another(
    serve_agents: Any,
) -> None:
    served_so: Any = {"access": AccessSettings(auth="keys"), "server": PRIVATE}
    config: Any = {"configurable": {"langgraph_auth_user": {"identity": "bob"}, "langgraph_auth_user_id": "bob"}}
    async with WebhookReceiver(NEW) as receiver, serve_agents({"echo": echo}, **served_so) as served:
        key = await served.app.store.api_keys.create("ada", owner="ada", permission="run")
        async with get_client(url=served.url, api_key=key.secret) as ada:
            await ada.runs.wait(None, "echo", input={}, config=config, webhook=receiver.url)
            (said,) = await told(receiver)
    assert said["user_id"] == "ada"
    assert "bob" not in json.dumps(said)


async def test_metrics_have_what_receivers_do_not_take(serve_agents: Any) -> None:
    async with WebhookReceiver(NEW) as receiver, serve_agents({"echo": echo}, server=PRIVATE) as served:
        feeds = served.app.vitals.feeds
        assert feeds() == []
        receiver.answers.append(status(413))
        for n in range(2):
            await served.client.runs.wait(None, "echo", input={"n": n}, webhook=receiver.url)
        async with asyncio.timeout(60):
            while not feeds() or feeds()[0].handled_total + feeds()[0].parked_total < 2:
                await asyncio.sleep(0.02)
        (found,) = feeds()
        assert (found.subscription, found.active, found.handled_total, found.parked_total) == (RUN_WEBHOOKS, True, 1, 1)
        await served.app.store.subscriptions.delete(RUN_WEBHOOKS)
        async with asyncio.timeout(60):
            while feeds():  # nothing may say that nobody feeds a subscription that is gone
                await asyncio.sleep(0.02)


async def test_runs_without_a_receiver_need_no_subscription(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        await served.client.runs.wait(None, "echo")
        assert RUN_WEBHOOKS not in [one.name for one in await served.app.store.subscriptions.all()]


@pytest.mark.parametrize(
    "address", ["", "nonsense", "/relative", "ftp://example.org/x", "http://127.0.0.1:1/x", "http://example.org/x"]
)
async def test_an_address_that_nothing_is_sent_to_is_refused_with_the_run(serve_agents: Any, address: str) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        for path in ("/runs", "/runs/wait", "/runs/stream"):
            answer = await http.post(path, json={"assistant_id": "echo", "webhook": address})
            assert answer.status_code == 422
            assert "webhook" in answer.json()["detail"]
        assert await served.app.store.runs() == []


async def test_one_address_that_nothing_is_sent_to_refuses_a_whole_batch(serve_agents: Any) -> None:
    async with (
        WebhookReceiver(NEW) as receiver,
        serve_agents({"echo": echo}, server=PRIVATE) as served,
        httpx.AsyncClient(base_url=served.url) as http,
    ):
        asked = [{"assistant_id": "echo", "webhook": address} for address in (receiver.url, "nonsense")]
        answer = await http.post("/runs/batch", json=asked)
        assert answer.status_code == 422
        assert "webhook" in answer.json()["detail"]
        assert await served.app.store.runs() == []
        assert (await http.post("/runs/batch", json=asked[:1])).status_code == 200
        await told(receiver)


async def test_what_would_allow_an_address_is_said_as_servers_are_set(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        inside, in_the_clear = [
            (await http.post("/runs", json={"assistant_id": "echo", "webhook": url})).json()["detail"]
            for url in ("https://127.0.0.1:1/x", "http://example.org/x")
        ]
    assert inside.rstrip(".").endswith("set server.private_webhooks = true")
    assert in_the_clear.rstrip(".").endswith("use https://")


async def test_without_its_packages_a_webhook_is_refused_with_their_name(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("trackside.app.observers.webhook")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.post("/runs", json={"assistant_id": "echo", "webhook": "https://example.org/x"})
    assert answer.status_code == 501
    assert "trackside[webhook]" in answer.json()["detail"]


async def test_who_lacks_the_packages_leaves_what_is_to_be_told_to_others(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with WebhookReceiver(NEW) as receiver:
        receiver.answers.append(status(503, {"Retry-After": "3600"}))
        async with serve_agents({"echo": echo}, server=PRIVATE) as served:
            await served.client.runs.wait(None, "echo", webhook=receiver.url)
            await told(receiver)
        with monkeypatch.context() as without:
            for name in [name for name in sys.modules if name.startswith("trackside.app.observers.webhook")]:
                without.delitem(sys.modules, name)
            without.setitem(sys.modules, "aiohttp", None)
            async with serve_agents({"echo": echo}, server=PRIVATE) as served:
                standing = await served.app.store.subscriptions.get(RUN_WEBHOOKS)
                while not standing.parked and "trackside[webhook]" not in caplog.text:
                    await asyncio.sleep(0.01)
                    standing = await served.app.store.subscriptions.get(RUN_WEBHOOKS)
                assert (standing.parked, standing.consumer) == (0, None)
        async with serve_agents({"echo": echo}, server=PRIVATE):
            await told(receiver, 2)
