"""Version 2 of the protocol through the Python client's thread streams: what a thread says across its runs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from agents import Agent as OpenAIAgent
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import NotFoundError
from pydantic_ai import Agent as PydanticAgent
from tests.integration.openai_agents.scripted_model import ScriptedModel
from tests.integration.pydantic_ai.models import call, streams
from tests.integration.server.protocol_agents import Held, asking, failing, talking, with_inside, with_tools

from trackside.harness.ids import assistant_id_of, new_id

DIALECTS = ("sqlite",)
HI = {"messages": [{"role": "user", "content": "hi", "id": "1"}]}
ALL = ["values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"]


async def command(served: Any, thread_id: str, method: str, *, key: str | None = None, **params: Any) -> Any:
    return await served.client.http.post(
        f"/threads/{thread_id}/commands",
        json={"id": 7, "method": method, "params": params},
        headers=None if key is None else {"Idempotency-Key": key},
    )


async def events_until(
    thread: Any, is_last: Any, channels: list[str] | None = None, opened: asyncio.Event | None = None, **more: Any
) -> Any:
    """Collect events up to the last one, over a connection of its own; the event `opened` is set once that is there."""
    handle, found = thread._transport.open_event_stream({"channels": channels or ALL, **more}), []
    if opened is not None:
        handle.ready.add_done_callback(lambda _: opened.set())
    async with asyncio.timeout(60):
        async for event in handle.events:
            found.append(event)
            if is_last(event):
                break
    await handle.close()
    return found


async def interrupted(thread: Any) -> None:
    """Wait until the client has noticed that the thread waits; the client announces this to nobody."""
    async with asyncio.timeout(60):
        while not thread.interrupted:
            await asyncio.sleep(0.01)


def ends(event: Any, *how: str) -> bool:
    """Whether this event ends a run, in one of these ways."""
    if event["method"] != "lifecycle" or event["params"]["namespace"]:
        return False
    return event["params"]["data"]["event"] in (how or ("completed", "failed"))


def of(events: Any, method: str) -> list[Any]:
    return [event["params"]["data"] for event in events if event["method"] == method]


async def test_a_run_on_a_thread_that_is_not_there_yet_is_followed_to_its_output(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, served.client.threads.stream(assistant_id="chat") as thread:
        run = await thread.run.start(input=HI, metadata={"team": "red"})
        output = await thread.output
        assert [message["type"] for message in output["messages"]] == ["human", "ai"]
        known = await served.client.runs.get(thread.thread_id, run["run_id"])
        assert (known["status"], known["metadata"]["team"]) == ("success", "red")


async def test_values_come_as_they_change(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, served.client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=HI)
        lengths = [len(values.get("messages", ())) async for values in thread.values]
        assert lengths[-1] == 2


async def test_messages_come_block_by_block_with_what_they_took(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, served.client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=HI)
        (message,) = [message async for message in thread.messages]
        assert await message.text == "it is sunny"
        assert await message.reasoning == "well"
        assert (await message.output).usage_metadata["total_tokens"] == 7
        assert message.node == "talk"


async def test_an_agent_says_as_much_by_its_assistants_id_as_by_its_name(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served:
        modes = []
        for assistant in ("chat", assistant_id_of("chat"), assistant_id_of("chat").upper()):
            said = await command(served, thread_id := new_id(), "run.start", assistant_id=assistant, input=HI)
            run_id = said["result"]["run_id"]
            await served.client.runs.join(thread_id, run_id)
            modes.append((await served.app.store.request_of(run_id))["stream_mode"])
    assert "tasks" in modes[0]
    assert modes == [modes[0]] * 3


async def test_tools_are_seen_at_work(serve_agents: Any) -> None:
    async with serve_agents({"chat": with_tools()}) as served:
        async with served.client.threads.stream(assistant_id="chat") as thread:
            await thread.run.start(input=HI)
            (used,) = [used async for used in thread.tool_calls]
            assert (used.name, used.input) == ("weather", {"city": "Rome"})
            assert "sunny in Rome" in str(await used.output)
        async with served.client.threads.stream(thread.thread_id, assistant_id="chat") as thread:
            events = await events_until(thread, ends, ["messages", "lifecycle"])
    finished = [said["content"] for said in of(events, "messages") if said["event"] == "content-block-finish"]
    assert finished[0] == {"type": "tool_call", "id": "call-1", "name": "weather", "args": {"city": "Rome"}}


async def test_a_graph_inside_is_found_and_heard(serve_agents: Any) -> None:
    async with serve_agents({"chat": with_inside()}) as served, served.client.threads.stream(assistant_id="chat") as it:
        await it.run.start(input=HI)
        (inside,) = [inside async for inside in it.subgraphs]
        assert (inside.graph_name, inside.status) == ("inside", "completed")
        assert [await message.text for message in [one async for one in inside.messages]] == ["it is sunny"]
        assert await it.agent.get_tree()
        tree = (await command(served, it.thread_id, "agent.getTree"))["result"]["tree"]
        assert (tree["status"], [child["graph_name"] for child in tree["children"]]) == ("completed", ["inside"])


async def test_what_nodes_write_comes_by_its_name(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, served.client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=HI)
        assert [said async for said in thread.extensions["progress"]] == [{"name": "progress", "payload": {"done": 1}}]
        events = await events_until(thread, ends, ["custom", "lifecycle"])
    assert of(events, "custom") == [{"payload": {"half": "way"}}, {"name": "progress", "payload": {"done": 1}}]


async def test_each_event_is_as_the_protocol_has_it(serve_agents: Any) -> None:
    async with serve_agents({"chat": with_inside()}) as served, served.client.threads.stream(assistant_id="chat") as it:
        run = await it.run.start(input=HI)
        events = await events_until(it, ends)
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    assert len({event["event_id"] for event in events}) == len(events)
    assert {event["method"] for event in events} == {
        "lifecycle", "checkpoints", "values", "tasks", "messages", "updates", "custom",
    }  # fmt: skip
    assert all(isinstance(event["params"]["timestamp"], int) for event in events)
    assert all(event["event_id"].startswith(f"synth:{run['run_id']}:") for event in (events[0], events[-1]))
    assert of(events, "updates")[-1]["node"] == "inside"
    # The checkpoint comes before the values that it has kept, so that clients know what to fork from.
    root = [event["method"] for event in events if not event["params"]["namespace"]]
    assert root.count("values") == root.count("checkpoints") - 1  # the first is that of the thread before the input
    assert all(root[place - 1] == "checkpoints" for place, method in enumerate(root) if method == "values")


async def test_a_question_leaves_the_stream_open_until_it_is_answered(serve_agents: Any) -> None:
    async with serve_agents({"ask": asking("why")}) as served, served.client.threads.stream(assistant_id="ask") as it:
        await it.run.start(input={"log": []})
        paused = await events_until(it, lambda event: ends(event, "interrupted"), ["lifecycle", "input", "values"])
        last = [event["method"] for event in paused][-2:]
        assert last == ["input.requested", "lifecycle"]
        await interrupted(it)
        assert it.interrupts[0]["value"] == {"ask": "why"}
        await it.run.respond("because")
        assert await it.output == {"log": ["why because"]}
        events = await events_until(it, ends, ["lifecycle", "input"], since=paused[-1]["seq"])
    assert [event["method"] for event in events] == ["lifecycle", "input.answered", "lifecycle"]
    assert of(events, "input.answered") == [{"interrupt_ids": [of(paused, "input.requested")[0]["interrupt_id"]]}]


async def test_several_questions_are_answered_at_once(serve_agents: Any) -> None:
    agents = {"ask": asking("why", "how")}
    async with serve_agents(agents) as served, served.client.threads.stream(assistant_id="ask") as it:
        await it.run.start(input={"log": []})
        paused = await events_until(it, lambda event: ends(event, "interrupted"), ["lifecycle", "input"])
        asked = {said["payload"]["ask"]: said["interrupt_id"] for said in of(paused, "input.requested")}
        answers = [{"interrupt_id": it, "response": f"{what}!", "namespace": []} for what, it in asked.items()]
        answer = await command(served, it.thread_id, "input.respond", responses=answers)
        assert answer["type"] == "success"
        assert sorted((await it.output)["log"]) == ["how how!", "why why!"]


def waits(event: Any) -> bool:
    return ends(event, "interrupted")


async def test_an_input_is_the_answer_where_the_thread_waits_for_one(serve_agents: Any) -> None:
    async with serve_agents({"ask": asking("why")}) as served, served.client.threads.stream(assistant_id="ask") as it:
        first = await it.run.start(input={"log": []})
        paused = await events_until(it, waits)
        (question,) = (await served.client.threads.get_state(it.thread_id))["interrupts"]
        run = await it.run.start(input="because")
        assert await served.client.runs.join(it.thread_id, run["run_id"]) == {"log": ["why because"]}
        asked = await served.app.store.request_of(run["run_id"])
        assert (asked.get("input"), asked["command"]) == (None, {"resume": {question["id"]: "because"}})
        events = await events_until(it, ends, ["lifecycle", "input"], since=paused[-1]["seq"])
        assert of(events, "input.answered")
        again = await it.run.start(input={"log": ["more"]})
        await events_until(it, waits, since=events[-1]["seq"])
        assert len({first["run_id"], run["run_id"], again["run_id"]}) == 3


async def test_what_is_said_after_an_answer_is_the_next_turn_also_while_the_answer_waits(serve_agents: Any) -> None:
    held = Held()

    async def next_turn(served: Any, by_answer: dict[str, Any]) -> Any:
        async with served.client.threads.stream(assistant_id="ask") as it:
            await it.run.start(input={"log": []})
            await events_until(it, waits)
            held.begun.clear()
            held.let_go.clear()
            other = await command(served, new_id(), "run.start", assistant_id="held", input={})
            await held.begun.wait()
            question = (await served.client.threads.get_state(it.thread_id))["interrupts"][0]["id"]
            given = {key: question if value == "ID" else value for key, value in by_answer.items()}
            answered = await command(served, it.thread_id, given.pop("method"), **given)
            said = await command(served, it.thread_id, "run.start", assistant_id="ask", input={"log": ["more"]})
            held.let_go.set()
            assert "result" in other
            assert await served.client.runs.join(it.thread_id, answered["result"]["run_id"]) == {"log": ["why yes"]}
            values = await served.client.runs.join(it.thread_id, said["result"]["run_id"])
            return values["log"], len(values["__interrupt__"])

    async with serve_agents({"ask": asking("why"), "held": held}, max_running=1) as served:
        respond = {"method": "input.respond", "interrupt_id": "ID", "response": "yes"}
        assert await next_turn(served, respond) == (["why yes", "more"], 1)
        start = {"method": "run.start", "assistant_id": "ask", "input": "yes"}
        assert await next_turn(served, start) == (["why yes", "more"], 1)


async def test_an_input_that_names_a_checkpoint_starts_over_though_the_thread_waits(serve_agents: Any) -> None:
    async with serve_agents({"ask": asking("why")}) as served, served.client.threads.stream(assistant_id="ask") as it:
        await it.run.start(input={"log": []})
        await events_until(it, waits)
        newest = (await served.client.threads.get_state(it.thread_id))["checkpoint"]["checkpoint_id"]
        for place in ({"forkFrom": newest}, {"config": {"configurable": {"checkpoint_id": newest}}}):
            said = await command(served, it.thread_id, "run.start", assistant_id="ask", input={"log": ["new"]}, **place)
            values = await served.client.runs.join(it.thread_id, said["result"]["run_id"])
            assert (values["log"][-1], len(values["__interrupt__"])) == ("new", 1)


async def test_a_start_that_is_made_again_means_what_it_meant(serve_agents: Any) -> None:
    async def start(key: str, input: Any) -> Any:
        return await command(served, thread_id, "run.start", key=key, assistant_id="ask", input=input)

    thread_id = new_id()
    async with serve_agents({"ask": asking("why")}) as served:
        asked = await start("one", {"log": []})
        await served.client.runs.join(thread_id, asked["result"]["run_id"])
        assert (await start("one", {"log": []}))["result"] == asked["result"]
        answered = await start("two", "because")
        values = await served.client.runs.join(thread_id, answered["result"]["run_id"])
        assert values == {"log": ["why because"]}
        assert (await start("two", "because"))["result"] == answered["result"]
        assert (await start("two", "another"))["error"] == "invalid_argument"


async def test_an_answer_that_is_given_again_finds_the_run_that_has_taken_it(serve_agents: Any) -> None:
    async def respond(response: str) -> Any:
        return await command(
            served, thread_id, "input.respond", key="one", interrupt_id=question["id"], response=response, namespace=[]
        )

    thread_id = new_id()
    async with serve_agents({"ask": asking("why")}) as served:
        runs = served.client.runs
        await runs.wait(thread_id, "ask", input={"log": []}, if_not_exists="create")
        (question,) = (await served.client.threads.get_state(thread_id))["interrupts"]
        answered = await respond("because")
        assert await runs.join(thread_id, answered["result"]["run_id"]) == {"log": ["why because"]}
        assert (await respond("because"))["result"] == answered["result"]
        assert (await respond("another"))["error"] == "invalid_argument"


async def test_a_start_on_a_thread_that_must_be_there_makes_none(serve_agents: Any) -> None:
    thread_id = new_id()
    async with serve_agents({"chat": talking()}) as served:
        with pytest.raises(NotFoundError, match="no thread"):
            await command(served, thread_id, "run.start", assistant_id="chat", input=HI, if_not_exists="reject")
        assert await served.app.store.thread(thread_id) is None
        await served.client.threads.create(thread_id=thread_id)
        said = await command(served, thread_id, "run.start", assistant_id="chat", input=HI, if_not_exists="reject")
        assert said["type"] == "success"


async def test_an_answer_to_what_nobody_asks_is_refused(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, served.client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=HI)
        await thread.output
        said = await command(served, thread.thread_id, "input.respond", interrupt_id="nope", response=1, namespace=[])
        passed_over = {"interrupt_id": "nope", "response": 1, "strict_resume": False}
        lenient = await command(served, thread.thread_id, "input.respond", **passed_over)
    assert (said["type"], said["id"], said["error"]) == ("error", 7, "no_such_interrupt")
    assert (lenient["error"], "strict_resume" in lenient["message"]) == ("not_supported", True)


async def test_a_stream_that_was_cut_off_goes_on_behind_its_last_event(serve_agents: Any) -> None:
    async with serve_agents({"chat": with_inside()}) as served, served.client.threads.stream(assistant_id="chat") as it:
        await it.run.start(input=HI)
        whole = await events_until(it, ends)
        for place in range(0, len(whole) - 1, 5):
            rest = await events_until(it, ends, since=whole[place]["seq"])
            assert rest == whole[place + 1 :]
        assert await events_until(it, ends, since=0) == whole


async def test_who_comes_late_has_the_whole_of_the_last_run_and_no_other(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, served.client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=HI)
        await thread.output
        last = await thread.run.start(input={"messages": [{"role": "user", "content": "and?", "id": "2"}]})
        await served.client.runs.join(thread.thread_id, last["run_id"])
        events = await events_until(thread, ends)
    assert of(events, "lifecycle")[0]["run_id"] == of(events, "lifecycle")[-1]["run_id"] == last["run_id"]
    assert len(of(events, "lifecycle")) == 2


async def test_a_thread_that_goes_on_is_not_taken_to_have_ended_with_its_last_run(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held}) as served:
        held.let_go.set()
        async with served.client.threads.stream(assistant_id="held") as first:
            await first.run.start(input={"text": "one"})
            await first.output
        held.let_go.clear()
        async with served.client.threads.stream(first.thread_id, assistant_id="held") as second:
            await second.run.start(input={"text": "two"})
            output = asyncio.ensure_future(second.output._get_task())
            await held.begun.wait()
            held.let_go.set()
            assert (await output)["said"] == {"text": "two"}


async def test_all_who_follow_at_once_have_the_same(serve_agents: Any) -> None:
    async with serve_agents({"chat": with_inside()}) as served, served.client.threads.stream(assistant_id="chat") as it:
        await it.run.start(input=HI)
        found = await asyncio.gather(*(events_until(it, ends) for _ in range(8)))
    assert all(one == found[0] for one in found)


async def test_a_run_that_is_cancelled_before_it_begins_has_an_end(serve_agents: Any) -> None:
    held = Held()
    async with serve_agents({"held": held}) as served, served.client.threads.stream(assistant_id="held") as thread:
        first = await thread.run.start(input={})
        await held.begun.wait()
        second = await thread.run.start(input={})
        await served.client.runs.cancel(thread.thread_id, second["run_id"])
        events = await events_until(thread, ends, ["lifecycle"])
        held.let_go.set()
        assert (events[-1]["params"]["data"]["run_id"], events[-1]["params"]["data"]["status"]) == (
            second["run_id"],
            "cancelled",
        )
        others = await events_until(thread, ends, ["lifecycle"], since=events[-1]["seq"])
        assert of(others, "lifecycle")[-1]["run_id"] == first["run_id"]


async def test_a_run_that_fails_says_why(serve_agents: Any) -> None:
    async with serve_agents({"fail": failing()}) as served, served.client.threads.stream(assistant_id="fail") as thread:
        await thread.run.start(input={"log": []})
        with pytest.raises(RuntimeError, match="the oven is off"):
            await thread.output


async def test_a_run_that_is_refused_says_why(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served:
        async with served.client.threads.stream(assistant_id="nobody") as thread:
            with pytest.raises(RuntimeError, match=r"invalid_argument\].*nobody"):
                await thread.run.start(input=HI)
        async with served.client.threads.stream(assistant_id="chat") as thread:
            with pytest.raises(RuntimeError, match="langsmith_tracer is not supported"):
                await thread.run.start(input=HI, langsmith_tracing={"project_name": "x"})


@pytest.mark.parametrize(
    ("method", "error"),
    [("run.walk", "unknown_command"), ("input.inject", "not_supported"), ("subscription.subscribe", "not_supported")],
)
async def test_commands_that_are_not_there_are_told_in_the_answer(serve_agents: Any, method: str, error: str) -> None:
    async with serve_agents({"chat": talking()}) as served:
        thread = await served.client.threads.create()
        said = await command(served, thread["thread_id"], method)
    assert (said["type"], said["id"], said["error"]) == ("error", 7, error)


async def test_states_are_looked_at_and_forked(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, served.client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=HI)
        await thread.output
        at = thread.thread_id
        state = (await command(served, at, "state.get", namespace=[], keys=["messages", "other"]))["result"]
        listed = (await command(served, at, "state.listCheckpoints", limit=10))["result"]["checkpoints"]
        assert (len(state["values"]["messages"]), state["checkpoint"]["id"]) == (2, listed[0]["id"])
        assert [one["step"] for one in listed] == [1, 0, -1]
        forked = (await command(served, at, "state.fork", checkpoint_id=listed[1]["id"]))["result"]
        await served.client.runs.join(at, forked["run_id"])
        assert (await served.client.runs.get(at, forked["run_id"]))["status"] == "success"
        missing = await command(served, at, "state.fork", checkpoint_id="1f000000-0000-6000-8000-000000000000")
        assert missing["error"] == "no_such_checkpoint"


async def test_a_thread_that_nobody_has_is_not_found(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.post(f"/threads/{new_id()}/stream/events", json={"channels": ["values"]})
        assert answer.status_code == 404
        wrong = await http.post(f"/threads/{new_id()}/stream/events", json={"channels": ["nothing"]})
        assert wrong.status_code == 422


async def test_namespaces_and_depth_choose_agents_inside(serve_agents: Any) -> None:
    async with serve_agents({"chat": with_inside()}) as served, served.client.threads.stream(assistant_id="chat") as it:
        await it.run.start(input=HI)
        await it.output
        channels = ["values", "lifecycle"]
        root = await events_until(it, ends, channels, namespaces=[[]], depth=0)
        inside = await events_until(it, is_completed, channels, namespaces=[["inside"]])
    assert [event["params"]["namespace"] for event in root] == [[]] * 4
    assert all(event["params"]["namespace"][0].startswith("inside:") for event in inside)
    assert len(of(inside, "values")) == 2


def is_completed(event: Any) -> bool:
    return event["method"] == "lifecycle" and event["params"]["data"]["event"] == "completed"


async def test_the_synchronous_client_follows_threads(serve_agents: Any) -> None:
    def follow(url: str) -> Any:
        with get_sync_client(url=url, api_key=None) as client, client.threads.stream(assistant_id="chat") as thread:
            thread.run.start(input=HI)
            texts = [str(message.text) for message in thread.messages]
            return texts, thread.output

    async with serve_agents({"chat": talking()}) as served:
        texts, output = await asyncio.to_thread(follow, served.url)
    assert texts == ["it is sunny"]
    assert len(output["messages"]) == 2


async def test_the_synchronous_client_answers_questions(serve_agents: Any) -> None:
    def follow(url: str) -> Any:
        with get_sync_client(url=url, api_key=None) as client, client.threads.stream(assistant_id="ask") as thread:
            thread.run.start(input={"log": []})
            while not thread.interrupted:  # the client announces this to nobody
                time.sleep(0.01)
            thread.run.respond("because")
            return thread.output

    async with serve_agents({"ask": asking("why")}) as served:
        assert await asyncio.to_thread(follow, served.url) == {"log": ["why because"]}


def of_pydantic_ai() -> Any:
    def weather(city: str) -> str:
        return f"sunny in {city}"

    model = streams([call("weather", "c1", city="Rome")], ["It is ", "sunny."])
    return PydanticAgent(model, tools=[weather], name="forecaster")


def of_openai() -> Any:
    return OpenAIAgent("forecaster", model=ScriptedModel("It is sunny."))


async def of_function(question: str, run: Any) -> str:
    run.message({"type": "ai", "content": "It is sunny.", "id": "m1"})
    return "done"


@pytest.mark.parametrize("agent", [of_pydantic_ai, of_openai, lambda: of_function])
async def test_agents_that_are_no_graphs_speak_in_messages_too(serve_agents: Any, agent: Any) -> None:
    async with serve_agents({"agent": agent()}) as served, served.client.threads.stream(assistant_id="agent") as thread:
        await thread.run.start(input="How is Rome?")
        texts = [await message.text for message in [one async for one in thread.messages]]
        assert texts[-1] == "It is sunny."
        await thread.output
        events = await events_until(thread, ends)
    if agent is of_pydantic_ai:
        assert [said["event"] for said in of(events, "tools")] == ["tool-started", "tool-finished"]
        assert of(events, "tools")[1]["output"] == "sunny in Rome"


async def test_who_follows_a_thread_sees_it_changed_by_hand(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, served.client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=HI)
        before = await events_until(thread, ends)
        added = {"messages": [{"role": "user", "content": "wait", "id": "9"}]}
        changed = await served.client.threads.update_state(thread.thread_id, added)
        since = before[-1]["seq"]
        events = await events_until(thread, lambda event: event["method"] == "values", since=since)
    assert [event["method"] for event in events] == ["checkpoints", "values"]
    assert of(events, "checkpoints")[0]["id"] == changed["checkpoint"]["checkpoint_id"]
    assert of(events, "values")[0]["messages"][-1]["content"] == "wait"


async def test_websockets_are_refused_with_a_sentence(serve_agents: Any) -> None:
    async with serve_agents({"chat": talking()}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.get(f"/threads/{new_id()}/stream/events")
    assert answer.status_code == 501
    assert "WebSocket" in answer.json()["detail"]
