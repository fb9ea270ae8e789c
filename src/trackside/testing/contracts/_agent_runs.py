"""What an agent does when nothing goes wrong: its answer, its messages, its usage, its stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, ClassVar

import pytest

from trackside.harness.journal import excerpt
from trackside.harness.ports import StreamPart
from trackside.harness.types import FailureReason, RunStatus
from trackside.testing.contracts._agent_stage import Arrival, is_plain, scripted, stage, tokens_of
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts.scripted import INPUT_TOKENS, OUTPUT_TOKENS, ScriptedAgents

_PRICE = 0.25
_OPENING = ["run_started", "thread_status_updated", "human_message"]
_CLOSING = ["run_completed", "thread_status_updated"]


class RunningPromises(Contract):
    """The part of an `AgentContract` that is about runs that come to an end by themselves."""

    streams_messages: ClassVar[bool] = False
    """A follower of `messages` gets what models say while they say it: `[chunk, metadata]`, one id for each answer."""

    @promise("agent")
    async def test_a_run_has_an_opening_a_closing_and_its_output(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "says")("good morning"))
        played.has_answered("good morning")
        kinds = [event.event_type.value for event in played.events]
        assert kinds == _OPENING + _CLOSING, f"announced was {', '.join(kinds)}"
        assert played.thread == ["busy", "idle"], f"the thread's statuses were {played.thread}"

    @promise("agent")
    async def test_the_output_is_plain_json(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            for agent in (scripted(agents, "says")("well"), scripted(agents, "calls_tool")("look")):
                played = await scene.play(agent)
                gave = played.gave
                assert gave is not None, f"the agent gave nothing back: {played.result.error}"
                assert is_plain(gave.output), f"the output is no plain JSON: {gave.output!r:.200}"
                assert gave.values is None or is_plain(gave.values), f"its values are none: {gave.values!r:.200}"

    @promise("messages")
    async def test_a_human_message_is_announced_once_and_counted(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "says")("good morning")
            first = await scene.play(agent, "hello", thread_id="thread")
            second = await scene.play(agent, "hello again", thread_id="thread")
        for played, text in ((first, "hello"), (second, "hello again")):
            assert played.said == [text], f"of the human message {text!r} was announced {played.said}"
            used = played.used
            assert used["first_human_message"] == text, f"the first human message is {used['first_human_message']!r}"
            assert used["message_count"] == 2, f"a message and its answer were counted as {used['message_count']}"

    @promise("thread memory")
    async def test_a_thread_remembers_and_others_do_not(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "remembers")()
            for nth in ("1", "2", "3"):
                (await scene.play(agent, f"message {nth}", thread_id="thread")).has_answered(nth)
            (await scene.play(agent, thread_id="another")).has_answered("1")

    @promise("usage")
    async def test_calls_are_counted_by_model_and_caller(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "says")("well"))
        played.has_used(1)
        by_model, by_caller = played.used["token_usage_by_model"], played.used["token_usage_by_caller"]
        assert by_model == {agents.model: tokens_of(1)}, f"by model that is {by_model}"
        assert by_caller == {"lead_agent": tokens_of(1)}, f"by caller that is {by_caller}"
        listed = [call["name"] for call in played.used["calls"] if call["kind"] == "chat"]
        assert listed == [agents.model], f"one call of a model is listed as {listed}"

    @promise("usage")
    async def test_calls_of_an_agent_below_are_credited_to_it(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "delegates")("helper"))
        calls = played.used["llm_call_count"]
        played.has_ended(RunStatus.success, calls=calls)
        by_caller = played.used["token_usage_by_caller"]
        assert by_caller.get("helper") == tokens_of(1), f"one call of the agent below was credited as {by_caller}"
        assert by_caller.get("lead_agent") == tokens_of(calls - 1), f"of {calls} calls were credited {by_caller}"
        assert by_caller.keys() == {"helper", "lead_agent"}, f"credited were {', '.join(by_caller)}"
        callers = [call["caller"] for call in played.used["calls"] if call["kind"] == "chat"]
        assert sorted(callers) == ["helper"] + ["lead_agent"] * (calls - 1), f"the calls are listed as {callers}'s"

    @pytest.mark.parametrize("times", [1, 3])
    @promise("usage")
    async def test_calls_of_tools_are_counted(self, agents: ScriptedAgents, times: int) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "calls_tool")("look", times))
        played.has_answered("done")
        played.has_used(times + 1)
        assert played.used["tool_call_count"] == times, f"{times} calls of a tool: {played.used['tool_call_count']}"

    @promise("usage")
    async def test_calls_have_the_price_of_their_model(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time, prices=_Flat(agents.model)) as scene:
            played = await scene.play(scripted(agents, "calls_tool")("look"))
        assert played.used.get("cost_usd") == 2 * _PRICE, f"two calls cost {played.used.get('cost_usd')}"

    @pytest.mark.parametrize(
        ("limit", "calls", "tools"),
        [
            ({"max_llm_calls": 1}, 2, 1),
            ({"max_tool_calls": 1}, 2, 2),
            ({"max_tokens": INPUT_TOKENS + OUTPUT_TOKENS}, 2, 1),
            ({"max_cost_usd": _PRICE}, 2, 1),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    @promise("budget")
    async def test_a_budget_stops_the_run_that_exceeds_it(
        self, agents: ScriptedAgents, limit: dict[str, Any], calls: int, tools: int
    ) -> None:
        async with stage(virtual=self.virtual_time, prices=_Flat(agents.model)) as scene:
            played = await scene.play(scripted(agents, "calls_tool")("look", 4), **limit)
        played.has_ended(RunStatus.error, calls=calls)
        assert played.end["error_type"] == FailureReason.budget_exceeded, f"its error is {played.end['error_type']}"
        counted = played.used["tool_call_count"]
        assert counted == tools, f"it was stopped after {counted} calls of tools instead of {tools}"

    @promise("budget")
    async def test_a_budget_that_is_just_enough_stops_nothing(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "calls_tool")("look", 2)
            enough = 3 * (INPUT_TOKENS + OUTPUT_TOKENS)
            played = await scene.play(agent, max_llm_calls=3, max_tool_calls=2, max_tokens=enough)
        played.has_answered("done")

    @promise("streaming")
    async def test_a_follower_sees_what_the_agent_came_to(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "says")("good morning"), stream_mode="values")
        shown = [part.data for part in played.parts if part.mode == "values"]
        assert any("good morning" in str(data) for data in shown), f"the values that were streamed are {shown!r:.200}"
        numbers = [part.sequence for part in played.parts]
        assert numbers == list(range(1, len(numbers) + 1)), f"the parts are numbered {numbers}"

    @promise("streaming", claim="streams_messages")
    async def test_a_follower_of_messages_gets_an_answer_in_chunks(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "says")("good morning to you"), stream_mode=["messages"])
        modes = {part.mode for part in played.parts}
        assert modes == {"messages"}, f"asked for were messages, and streamed were parts of {modes or 'nothing'}"
        chunks = [part.data[0] for part in played.parts]
        said = "".join(excerpt(chunk.get("content")) for chunk in chunks)
        assert said == "good morning to you", f"the chunks of an answer come to {said!r}"
        ids = {chunk.get("id") for chunk in chunks}
        assert len(ids) == 1, f"the chunks of one answer have the ids {ids}"

    @promise("streaming", claim="streams_messages")
    async def test_a_follower_of_messages_gets_them_while_the_run_goes_on(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            arrival = Arrival()
            handle = await scene.start(scripted(agents, "waits")(arrival), stream_mode="messages")
            async with aclosing(handle.stream()) as parts:
                part = await anext(parts)
            assert isinstance(part, StreamPart), f"the first part is {part}"
            assert part.mode == "messages", f"the first part is {part}"
            await scene.reach(handle, arrival)
            await handle.cancel()
            (await scene.outcome(handle)).has_ended(RunStatus.cancelled, calls=1)

    @promise("I21")
    async def test_an_agents_code_sees_its_run(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            arrival = Arrival()
            handle = await scene.start(scripted(agents, "waits")(arrival))
            await scene.reach(handle, arrival)
            seen = arrival.run
            await handle.cancel(wait=True)
        assert seen is not None, "current_run() was None in the agent's code"
        assert seen.run_id == handle.run_id, f"in the agent's code of {handle.run_id} current_run() is {seen.run_id}"

    @promise("I21")
    async def test_runs_side_by_side_keep_apart(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            arrivals = [Arrival(), Arrival()]
            waiting = [await scene.start(scripted(agents, "waits")(arrival)) for arrival in arrivals]
            for handle, arrival in zip(waiting, arrivals, strict=True):
                await scene.reach(handle, arrival)
            calls_tool = scripted(agents, "calls_tool")
            ended = await asyncio.gather(*(scene.play(calls_tool("look", times)) for times in (1, 2, 3)))
            stopped = []
            for handle in waiting:
                await handle.cancel()
                stopped.append(await scene.outcome(handle))
        for handle, arrival in zip(waiting, arrivals, strict=True):
            assert arrival.run is not None, "current_run() was None in the agent's code"
            assert arrival.run.run_id == handle.run_id, "an agent's code saw the run of another"
        for times, played in enumerate(ended, 1):
            played.has_ended(RunStatus.success, calls=times + 1)
        for played in stopped:
            played.has_ended(RunStatus.cancelled, calls=1)

    @promise("I21")
    async def test_one_agent_in_several_runs_at_once_keeps_them_apart(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            agent = scripted(agents, "remembers")()
            played = await asyncio.gather(*(scene.play(agent, f"message {nth}") for nth in range(5)))
        for nth, one in enumerate(played):
            one.has_answered("1")
            one.has_used(1)
            assert one.said == [f"message {nth}"], f"of message {nth} was announced {one.said}"


class _Flat:
    """A price list with one model, whose calls all cost the same."""

    def __init__(self, model: str) -> None:
        self._model = model

    def cost_usd(
        self, model: str, *, input_tokens: int, output_tokens: int, cache_read_tokens: int, reasoning_tokens: int
    ) -> float | None:
        return _PRICE if model == self._model else None
