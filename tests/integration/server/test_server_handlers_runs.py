"""What authorization handlers are told of the runs and commands that people start, and what they change of them."""

from __future__ import annotations

import json
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from tests.integration.server.handler_projects import (
    AUTH,
    NOWHERE,
    OWNERS,
    Text,
    command,
    done,
    graph,
    refused,
    spec_for,
    telling,
)

from trackside.harness.ids import assistant_id_of


async def test_a_handler_may_change_what_a_run_gets(serve_auth: Any) -> None:
    code = """
@auth.on.threads.create_run
async def start(ctx, value):
    value["kwargs"]["input"] = {"text": ctx.user.identity + " says " + value["kwargs"]["input"]["text"]}
    value["metadata"] = {"agent": str(value["assistant_id"])}
"""
    start = {"id": 1, "method": "run.start", "params": {"assistant_id": "chat", "input": {"text": "ho"}}}
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,), place.http("ada") as http:
        assert (await ada.runs.wait(NOWHERE, "chat", input={"text": "hi"}, if_not_exists="create"))["text"] == (
            "ada says hi!"
        )
        agent = (await ada.assistants.get("chat"))["assistant_id"]
        assert (await ada.threads.get(NOWHERE))["metadata"]["agent"] == agent
        run = (await http.post(f"/threads/{NOWHERE}/commands", json=start)).json()["result"]["run_id"]
        assert (await ada.runs.join(NOWHERE, run))["text"] == "ada says ho!"


async def test_a_handler_may_add_what_a_command_does_not_say(serve_auth: Any) -> None:
    handler = "\n@auth.on.threads.create_run\nasync def start(ctx, value):\n    value['kwargs'] |= "
    for adds in ("{'config': {'configurable': {'tenant': 'blue'}}}", "{'context': {'tenant': 'blue'}}"):
        async with serve_auth(AUTH + handler + adds, chat=telling()) as place, place.clients("ada") as (ada,):
            thread_id = (await ada.threads.create())["thread_id"]
            await done(ada, thread_id, "run.start", assistant_id="chat", input={"text": "hi"})
            assert (await ada.threads.get_state(thread_id))["values"] == {"text": "hi, blue?"}
            first = (await ada.threads.get_history(thread_id))[1]["checkpoint"]["checkpoint_id"]
            await done(ada, thread_id, "state.fork", checkpoint_id=first)
            state = await ada.threads.get_state(thread_id)
            assert state["values"] == {"text": "hi, blue?"}
            await done(ada, thread_id, "input.respond", interrupt_id=state["interrupts"][0]["id"], response="yes")
            assert (await ada.threads.get_state(thread_id))["values"] == {"text": "blue: yes"}


async def test_a_handler_sees_which_agent_a_command_starts(serve_auth: Any) -> None:
    code = """
from uuid import UUID

asked = []

@auth.on.threads.create_run
async def start(ctx, value):
    if value["assistant_id"] == UUID("ADMIN"):
        return False
"""
    code = code.replace("ADMIN", assistant_id_of("admin"))
    async with serve_auth(AUTH + code, admin=graph()) as place, place.clients("ada") as (ada,):
        thread_id = (await ada.threads.create(metadata={"graph_id": "admin"}))["thread_id"]
        assert await refused(ada.runs.wait(thread_id, "admin", input={"text": "a"})) == 403
        at = (await ada.threads.update_state(thread_id, {"text": "a"}))["checkpoint"]["checkpoint_id"]
        assert await refused(command(ada, thread_id, "state.fork", checkpoint_id=at)) == 403
        assert await refused(command(ada, thread_id, "input.respond", interrupt_id="x", response=1)) == 403
        assert await ada.runs.list(thread_id) == []


async def test_a_handler_sees_an_answer_alike_however_it_is_sent(serve_auth: Any) -> None:
    code = """
import json

@auth.on.threads.create_run
async def start(ctx, value):
    if command := value["kwargs"].get("command"):
        raise Auth.exceptions.HTTPException(status_code=403, detail=json.dumps(command))
"""
    async with (
        serve_auth(AUTH + code, chat=telling()) as place,
        place.clients("ada") as (ada,),
        place.http("ada") as http,
    ):
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"})
        (asked,) = (await ada.threads.get_state(thread_id))["interrupts"]
        answers = {asked["id"]: "yes"}
        both = {"command": {"resume": answers, "goto": "note"}}
        one = {"interrupt_id": asked["id"], "response": "yes", "goto": "note"}
        several = {"responses": [{"interrupt_id": asked["id"], "response": "yes"}], "goto": "note"}
        path = f"/threads/{thread_id}"
        sent = [
            (f"{path}/runs/wait", {"assistant_id": "chat", **both}),
            (f"{path}/commands", {"id": 1, "method": "run.start", "params": {"assistant_id": "chat", **both}}),
            (f"{path}/commands", {"id": 1, "method": "input.respond", "params": one}),
            (f"{path}/commands", {"id": 1, "method": "input.respond", "params": several}),
            (f"{path}/commands", {"id": 1, "method": "input.respond", "params": {**several, "config": 5}}),
        ]
        for way, body in sent:
            answer = await http.post(way, json=body)
            assert (answer.status_code, json.loads(answer.json()["detail"])) == (403, both["command"]), body
        only = {"assistant_id": "chat", "input": "yes"}  # which says of no question that it is the answer to that
        for params in (only, {**only, "config": 5}):
            answer = await http.post(f"{path}/commands", json={"id": 1, "method": "run.start", "params": params})
            assert (answer.status_code, json.loads(answer.json()["detail"])) == (403, {"resume": "yes"}), params
        assert len(await ada.runs.list(thread_id)) == 1


@pytest.mark.parametrize("waits", [True, False])
async def test_an_input_starts_as_what_a_handler_was_asked_about(serve_auth: Any, waits: bool) -> None:
    """Whether the thread waits for an answer may change while the handler thinks."""
    code = """
import httpx

@auth.on.threads.create_run
async def start(ctx, value):
    if ctx.user.identity == "boss":
        return
    asked = "answer" if "command" in value["kwargs"] else "input"
    value["kwargs"]["input"] = {"text": asked}
    headers = {"Authorization": "Bearer boss"}
    meanwhile = {"command": {"resume": "yes"}} if asked == "answer" else {"input": {"text": "hi"}}
    async with httpx.AsyncClient(base_url=value["metadata"].pop("url"), headers=headers) as http:
        path = "/threads/" + str(value["thread_id"]) + "/runs/wait"
        (await http.post(path, json={"assistant_id": "chat", **meanwhile})).raise_for_status()

@auth.on
async def all(ctx, value):
    return {}
"""
    async with serve_auth(AUTH + code, chat=telling()) as place, place.clients("ada", "boss") as (ada, boss):
        thread_id = (await ada.threads.create())["thread_id"]
        if waits:
            await boss.runs.wait(thread_id, "chat", input={"text": "hi"})
        said = {"assistant_id": "chat", "input": {"text": "mine"}, "metadata": {"url": place.served.url}}
        run_id = await done(ada, thread_id, "run.start", **said)
        state = await ada.threads.get_state(thread_id)
        if waits:
            assert (await ada.runs.get(thread_id, run_id))["status"] == "error"  # there is nothing to answer any more
            assert (state["values"], state["interrupts"]) == ({"text": "None: yes"}, [])
        else:
            assert state["values"] == {"text": "input, None?"}
            assert [question["value"] for question in state["interrupts"]] == ["input, None?"]


async def test_an_input_tells_nobody_that_a_thread_waits_which_he_does_not_see(serve_auth: Any) -> None:
    async with serve_auth(OWNERS, chat=telling()) as place, place.clients("ada", "bob") as (ada, bob):
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"})
        answer = command(bob, thread_id, "run.start", assistant_id="chat", input="yes")
        assert await refused(answer) == 404
        await done(ada, thread_id, "run.start", assistant_id="chat", input="yes")
        assert (await ada.threads.get_state(thread_id))["values"] == {"text": "None: yes"}


async def test_the_agent_that_a_handler_was_asked_about_is_the_one_that_runs(serve_auth: Any) -> None:
    """Whose thread it is may change while the handler thinks."""
    code = """
import httpx

@auth.on.threads.create_run
async def start(ctx, value):
    headers = {"Authorization": "Bearer " + ctx.user.identity}
    async with httpx.AsyncClient(base_url=value["metadata"].pop("url"), headers=headers) as http:
        await http.patch("/threads/" + str(value["thread_id"]), json={"metadata": {"graph_id": "admin"}})
"""
    async with serve_auth(AUTH + code, admin=graph()) as place, place.clients("ada") as (ada,):
        thread_id = (await ada.threads.create(metadata={"graph_id": "chat"}))["thread_id"]
        at = (await ada.threads.update_state(thread_id, {"text": "a"}))["checkpoint"]["checkpoint_id"]
        run_id = await done(ada, thread_id, "state.fork", checkpoint_id=at, metadata={"url": place.served.url})
        assert (await ada.runs.get(thread_id, run_id))["assistant_id"] == assistant_id_of("chat")


async def test_a_handler_sees_of_a_command_what_it_would_see_of_a_request(
    serve_auth: Any, caplog: pytest.LogCaptureFixture
) -> None:
    code = """
@auth.on.threads
async def mine(ctx, value):
    value["metadata"].update(owner=ctx.user.identity)
    if value.get("multitask_strategy") == "rollback":
        return False
"""
    asked = {"assistant_id": "chat", "input": {"text": "hi"}}
    sent = [
        ("run.start", {**asked, "multitask_strategy": "rollback"}, 403),
        ("run.start", {**asked, "multitaskStrategy": "rollback"}, 403),
        ("run.start", {**asked, "metadata": "x"}, 200),  # which is not done, and says why, as are the next ones
        ("run.start", {**asked, "config": 5}, 200),
        ("run.start", {**asked, "config": 5, "multitaskStrategy": "rollback"}, 403),
        ("state.fork", {"checkpoint_id": "x", "metadata": ["x"]}, 200),
        ("state.get", {"metadata": "x"}, 200),
        ("run.start", {**asked, "multitaskStrategy": "enqueue"}, 200),
    ]
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,), place.http("ada") as http:
        thread_id = (await ada.threads.create())["thread_id"]
        answers = [
            await http.post(f"/threads/{thread_id}/commands", json={"id": 1, "method": method, "params": params})
            for method, params, _ in sent
        ]
        assert len(await ada.runs.list(thread_id)) == 1

    assert [answer.status_code for answer in answers] == [status for _, _, status in sent]
    done = [answer.json() for answer in answers if answer.status_code == 200]
    assert [one.get("error") for one in done] == ["invalid_argument"] * 4 + [None]
    assert "metadata has to be an object" in done[0]["message"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


class Bought(TypedDict, total=False):
    tenant: str
    tier: str


def telling_twice() -> Any:
    """Tells what is configured, and its context."""

    def tell(state: Text, config: RunnableConfig, runtime: Runtime[Bought]) -> Text:
        both = config["configurable"], runtime.context or {}
        return {"text": "; ".join(f"{one.get('tenant')} {one.get('tier')}" for one in both)}

    builder: Any = StateGraph(Text, context_schema=Bought)
    return builder.add_node("tell", tell).add_edge(START, "tell").compile()


TIERS = """
@auth.on.threads.create_run
async def start(ctx, value):
    options = value["kwargs"]
    if into := value["metadata"].get("into"):
        (options["config"]["configurable"] if into == "configurable" else options["context"])["tier"] = "gold"
"""


@pytest.mark.parametrize("into", ["configurable", "context"])
async def test_a_handler_finds_a_config_and_a_context_to_put_something_into(serve_auth: Any, into: str) -> None:
    of_configured = None if into == "context" else "gold"  # of what the client has said of the other one
    of_context = None if into == "configurable" else "gold"
    said: list[tuple[dict[str, Any], str]] = [
        ({}, "None gold; None gold"),
        ({"config": {"configurable": None, "tags": ["a"]}}, "None gold; None gold"),
        ({"config": {"configurable": {"tenant": "blue"}}}, f"blue {of_configured}; blue gold"),
        ({"context": {"tenant": "blue"}}, f"blue gold; blue {of_context}"),
    ]
    async with serve_auth(AUTH + TIERS, chat=telling_twice()) as place, place.clients("ada") as (ada,):
        app = place.served.app
        for options, told in said:
            asked: dict[str, Any] = {**options, "input": {"text": "hi"}, "metadata": {"into": into}}
            assert (await ada.runs.wait(None, "chat", **asked))["text"] == told, options
            (run,) = await ada.runs.create_batch([{"assistant_id": "chat", "on_completion": "keep", **asked}])
            assert (await ada.runs.join(run["thread_id"], run["run_id"]))["text"] == told, options
            thread_id = (await ada.threads.create())["thread_id"]
            await done(ada, thread_id, "run.start", assistant_id="chat", **asked)
            state = await ada.threads.get_state(thread_id)
            assert state["values"]["text"] == told, options
            before = (await ada.threads.get_history(thread_id))[1]["checkpoint"]["checkpoint_id"]
            fork = {**options, "checkpoint_id": before, "metadata": {"into": into}}
            await done(ada, thread_id, "state.fork", **fork)
            assert (await ada.threads.get_state(thread_id))["values"]["text"] == told, options
            cron = await ada.crons.create_for_thread(thread_id, "chat", schedule="0 0 1 1 *", **asked)
            await (await app.manager.start(spec_for(app, await app.store.crons.get(cron["cron_id"])))).result()
            assert (await ada.threads.get_state(thread_id))["values"]["text"] == told, options


async def test_what_a_handler_leaves_of_a_run_is_as_the_client_has_said_it(serve_auth: Any) -> None:
    said: list[dict[str, Any]] = [
        {},
        {"config": {}},
        {"config": {"configurable": {}}},
        {"config": {"configurable": {"tenant": "blue"}}},
        {"config": {"tags": ["a"]}, "context": {"tenant": "blue"}},
        {"config": {"configurable": {"tier": "tin"}}, "context": {"tenant": "blue"}},
        {"context": "blue"},
    ]
    kept: list[list[Any]] = []
    for code in ("", TIERS):
        async with serve_auth(AUTH + code, chat=telling_twice()) as place, place.http("ada") as http:
            runs = [
                (await http.post("/runs", json={"assistant_id": "chat", "input": {"text": "hi"}, **options})).json()
                for options in said
            ]
            crons = [
                await http.post("/runs/crons", json={"assistant_id": "chat", "schedule": "0 0 1 1 *", **options})
                for options in said
            ]
            kept.append([run["kwargs"] for run in runs] + [cron.json()["payload"] for cron in crons])
    assert kept[0] == kept[1]


async def test_a_handler_is_told_what_becomes_of_a_run_that_does_not_say_it(serve_auth: Any) -> None:
    code = """
import json

@auth.on.threads.create_run
async def start(ctx, value):
    told = [value[name] for name in ("multitask_strategy", "if_not_exists", "after_seconds")]
    raise Auth.exceptions.HTTPException(status_code=403, detail=json.dumps(told))
"""
    run, others = {"assistant_id": "chat"}, {"multitask_strategy": "reject", "after_seconds": 5}
    answer = {"interrupt_id": "of-nothing", "response": "yes", "assistant_id": "chat"}
    async with serve_auth(AUTH + code) as place, place.http("ada") as http:
        thread = f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}"
        for path, body, told in (
            (f"{thread}/runs", run, ["enqueue", "reject", 0]),
            (f"{thread}/runs", {**run, **others, "if_not_exists": "create"}, ["reject", "create", 5]),
            ("/runs", run, ["enqueue", "create", 0]),
            (f"{thread}/commands", {"id": 1, "method": "run.start", "params": run}, ["enqueue", "create", 0]),
            (f"{thread}/commands", {"id": 1, "method": "input.respond", "params": answer}, ["enqueue", "reject", 0]),
            (f"{thread}/runs/crons", {**run, "schedule": "0 0 1 1 *"}, ["enqueue", "reject", 0]),
        ):
            assert json.loads((await http.post(path, json=body)).json()["detail"]) == told, (path, body)
