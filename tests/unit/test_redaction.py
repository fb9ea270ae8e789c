"""The redaction hook: what it removes is nowhere, and whatever it does, a run is told truly to its end."""

import copy
import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.contract.ways_to_run import required, virtual
from tests.unit.redaction_hooks import (
    SECRET,
    empty,
    exits,
    mask,
    none,
    nonsense,
    nonsense_inside,
    raises,
    steals_questions,
    turns_the_end_round,
    unreadable,
)

from trackside.harness import (
    AgentResult,
    InvalidSpecError,
    LifecycleEventType,
    Redact,
    RunContext,
    RunManager,
    RunResult,
    RunSpec,
    RunStatus,
    StreamPart,
    as_agent,
)
from trackside.harness.payload import MAX_CHARS
from trackside.harness.redaction import redacted
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order

COUNTS = ("total_tokens", "llm_call_count", "message_count")
TERMINAL = {LifecycleEventType.RUN_COMPLETED, LifecycleEventType.RUN_FAILED, LifecycleEventType.RUN_CANCELLED}


async def answers(input: str, run: RunContext) -> str:
    run.message({"type": "ai", "content": f"you said {input}"})
    run.record_usage("m", input_tokens=3, output_tokens=4)
    run.set_title(f"about {input}")
    return input


async def fails(input: str, run: RunContext) -> None:
    raise ValueError(input)


async def asks(input: str, run: RunContext) -> Any:
    return run.interrupt({"shall I charge": input})


async def cancels(input: str, run: RunContext) -> None:
    await run.context.cancel(run.run_id)


AGENTS = [answers, fails, asks, cancels]


class Seen:
    """One run under a hook, and everything that anybody could see of it."""

    def __init__(self, hook: Redact, **options: Any) -> None:
        self.observer = RecordingObserver()
        self.manager = RunManager(
            {agent.__name__: agent for agent in AGENTS},
            observers=[required(self.observer)],
            redact=hook,
            clock=VirtualClock(),
            **options,
        )

    async def run(self, agent: Any, input: Any = f"pay with {SECRET}") -> RunResult:
        async with self.manager as manager:
            spec = RunSpec(agent, input, metadata={"card": SECRET, "n": 1}, context=manager)
            handle = await manager.start(spec)
            self.result = await handle.result()
            self.record = await manager.get(handle.run_id)
        assert_run_order(self.observer.events)
        return self.result

    def everything(self) -> str:
        told = dataclasses.replace(self.result, output=None)  # the output is for the caller alone
        return repr((self.observer.events, told, self.record))

    def payload(self, *kinds: LifecycleEventType) -> Mapping[str, Any]:
        (event,) = [event for event in self.observer.events if event.event_type in kinds]
        return event.payload


@pytest.mark.parametrize("agent", AGENTS)
@virtual
async def test_what_the_hook_takes_out_is_nowhere(agent: Any) -> None:
    seen = Seen(mask)
    await seen.run(agent.__name__)
    assert SECRET not in seen.everything()
    assert "▇" in seen.everything()
    assert seen.record.metadata == {"card": "▇", "n": 1}
    assert seen.payload(LifecycleEventType.RUN_STARTED)["metadata"] == {"card": "▇", "n": 1}


@virtual
async def test_the_agent_and_its_thread_have_what_others_do_not_see() -> None:
    got: list[Any] = []

    async def agent(input: str, run: RunContext) -> None:
        got.extend([input, run.metadata["card"]])

    await Seen(mask).run(agent)
    assert got == [f"pay with {SECRET}", SECRET]


@virtual
async def test_the_hook_is_called_on_the_event_loop_also_for_what_an_agent_says_in_a_thread() -> None:
    threads: set[int] = set()

    def hook(kind: LifecycleEventType, payload: Any) -> Any:
        threads.add(threading.get_ident())
        return payload

    def says(input: str, run: RunContext) -> None:
        for number in range(3):
            run.message({"type": "human", "content": str(number)})

    seen = Seen(hook)
    await seen.run(says, "go")
    assert threads == {threading.get_ident()}
    said = [event.payload["message"]["content"] for event in seen.observer.events if "message" in event.payload]
    assert said == ["go", "0", "1", "2"]


LEAVE_THE_TYPE = [turns_the_end_round, steals_questions]
BAD = [raises, exits, none, empty, nonsense, nonsense_inside, unreadable, turns_the_end_round, steals_questions]
ENDS = {
    "answers": (RunStatus.success, {"status": "success"}),
    "fails": (RunStatus.error, {"status": "error"}),
    "asks": (RunStatus.interrupted, {"status": "interrupted"}),
    "cancels": (RunStatus.cancelled, {"cancel_mode": "interrupt"}),
}


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("hook", BAD)
@virtual
async def test_a_bad_hook_lets_nothing_out_and_changes_no_end(hook: Any, agent: Any) -> None:
    seen = Seen(hook)
    result = await seen.run(agent.__name__)
    status, says = ENDS[agent.__name__]
    assert result.status is status is seen.record.status
    assert SECRET not in seen.everything()
    end = seen.payload(*TERMINAL)
    assert {name: end.get(name) for name in ("status", "cancel_mode")} == {"status": None, "cancel_mode": None} | says
    if agent is fails:
        assert end["error_type"] == ("ValueError" if hook in LEAVE_THE_TYPE else "(withheld)")
    assert {name: result.completion_data[name] for name in COUNTS} == {
        "total_tokens": 7 if agent is answers else 0,
        "llm_call_count": int(agent is answers),
        "message_count": 3 if agent is answers else 1,
    }
    assert seen.payload(LifecycleEventType.RUN_STARTED)["agent"] == agent.__name__
    assert seen.payload(LifecycleEventType.HUMAN_MESSAGE)["message"]["type"] == "human"
    assert isinstance(seen.record.metadata, dict)
    assert isinstance(result.error, str | None)
    assert isinstance(result.title, str | None)


@virtual
async def test_a_hook_that_fails_is_said_in_the_log_and_in_the_event(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "trackside.worker"):
        seen = Seen(raises)
        result = await seen.run("fails")
    assert "the redaction hook failed on run_failed" in caplog.text
    assert seen.payload(LifecycleEventType.RUN_FAILED)["redaction_failed"] is True
    assert result.error == "not shown: the redaction hook failed"


@virtual
async def test_the_log_does_not_quote_what_a_hook_has_failed_on(caplog: pytest.LogCaptureFixture) -> None:
    def quotes(kind: LifecycleEventType, payload: Any) -> Any:
        return payload | {"number": int(payload["message"]["content"])} if "message" in payload else payload

    await Seen(quotes).run("answers")
    assert "the redaction hook failed on human_message" in caplog.text
    assert "ValueError" in caplog.text
    assert "in quotes" in caplog.text, "it says where"
    assert SECRET not in caplog.text


class Prices:
    """A price list that knows none of these models, and says so in its own way."""

    def __init__(self, say: Callable[[str], Any]) -> None:
        self._say = say

    def cost_usd(self, model: str, **tokens: int) -> Any:
        return self._say(model)


def is_missing(model: str) -> float:
    known: dict[str, float] = {}
    return known[model]


@virtual
@pytest.mark.parametrize("say", [lambda model: None, lambda model: f"not for {model}", is_missing])
@pytest.mark.parametrize("hook", [mask, None])
async def test_the_log_does_not_name_a_model_that_a_hook_may_take_out(
    hook: Any, say: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(input: str, run: RunContext) -> None:
        run.record_usage(f"model {input}", input_tokens=3, output_tokens=4)

    async with RunManager({"agent": agent}, prices=Prices(say), redact=hook, clock=VirtualClock()) as manager:
        await (await manager.start(RunSpec("agent", SECRET, max_cost_usd=1.0))).result()
    named = [f"of model {SECRET}"] if hook is None else ["of 1 of its models"]
    if say is is_missing:
        named.append(f"KeyError: 'model {SECRET}'" if hook is None else "it raised KeyError at\n")
        assert "in is_missing" in caplog.text, "it says where"
    assert [name for name in named if name not in caplog.text] == []
    assert (SECRET in caplog.text) is (hook is None)


@virtual
async def test_a_question_is_answered_by_its_id_although_its_text_is_redacted() -> None:
    seen = Seen(raises)
    async with seen.manager as manager:
        asked = await (await manager.start(RunSpec("asks", SECRET, thread_id="t"))).result()
        assert asked.status is RunStatus.interrupted
        (question,) = seen.payload(LifecycleEventType.RUN_COMPLETED)["interrupts"]
        assert set(question) == {"id"}
        resume = {"resume": {question["id"]: "yes"}}
        answered = await (await manager.start(RunSpec("asks", command=resume, thread_id="t"))).result()
        assert answered.status is RunStatus.success


@virtual
async def test_a_run_that_never_starts_and_one_that_a_run_starts_are_redacted_as_well() -> None:
    async def parent(input: str, run: RunContext) -> None:
        spec = RunSpec("answers", input, run_id="child", metadata={"card": SECRET})
        await (await seen.manager.start(spec)).result()

    seen = Seen(mask, max_running=1)
    async with seen.manager as manager:
        run = await manager.start(RunSpec(parent, SECRET, metadata={"card": SECRET}))
        waits = await manager.start(RunSpec("answers", SECRET, metadata={"card": SECRET}, trigger=f"mail of {SECRET}"))
        await waits.cancel(wait=True)
        record = await manager.get(waits.run_id)
        assert (record.metadata, record.trigger) == ({"card": "▇"}, "mail of ▇")
        await run.result()
    assert SECRET not in repr(seen.observer.events)
    assert {event.run_id for event in seen.observer.events} == {run.run_id, waits.run_id, "child"}


async def late(kind: LifecycleEventType, payload: Any) -> Any:
    return payload


@pytest.mark.parametrize("hook", ["mask", {}, late, lambda payload: payload])
async def test_what_cannot_be_called_as_a_hook_is_refused_before_it_withholds_everything(hook: Any) -> None:
    with pytest.raises(InvalidSpecError, match="^redact = "):
        RunManager(redact=hook)


def test_a_hook_gets_a_copy_of_its_own() -> None:
    payload = {"message": {"id": "1", "type": "human", "content": SECRET}}
    before = copy.deepcopy(payload)

    def mutates(kind: LifecycleEventType, payload: Any) -> Any:
        payload["message"]["content"] = "▇"
        payload["message"]["id"] = "2"
        return payload

    seen = redacted(mutates, LifecycleEventType.HUMAN_MESSAGE, payload)
    assert payload == before
    assert seen == {"message": {"id": "1", "type": "human", "content": "▇"}}


@virtual
async def test_what_an_agents_questions_carry_is_redacted_and_what_the_thread_remembers_is_not() -> None:
    class Asks:
        name = "asks-itself"
        uses_thread_state = True

        async def human_messages(self, run: RunContext) -> list[Any]:
            return []

        async def run(self, run: RunContext) -> AgentResult:
            if run.resuming:
                return AgentResult(values={"was": run.input})
            return AgentResult(interrupts=[{"id": "q", "value": SECRET}])

        async def rollback(self, run: RunContext) -> None:
            return None

    seen = Seen(mask)
    async with seen.manager as manager:
        agent = as_agent(Asks())
        await (await manager.start(RunSpec(agent, SECRET, thread_id="t"))).result()
        assert seen.payload(LifecycleEventType.RUN_COMPLETED)["interrupts"] == [{"id": "q", "value": "▇"}]
        await (await manager.start(RunSpec(agent, command={"resume": "yes"}, thread_id="t"))).result()
        state = await manager._services.states.load("t")
    assert state is not None
    assert state.values == {"was": SECRET}


class AsksAtLength:
    """Asks two things at once, one of which takes all the room in an event, and returns the answers."""

    name = "asks-at-length"
    uses_thread_state = True
    asks = ({"value": "x" * 2 * MAX_CHARS, "id": "a"}, {"id": "b", "value": "y"})

    async def human_messages(self, run: RunContext) -> list[Any]:
        return []

    async def run(self, run: RunContext) -> AgentResult:
        if not run.resuming:
            run.set_title("at length")
            return AgentResult(interrupts=self.asks)
        assert run.paused is not None
        return AgentResult(output=run.answers_by_id, values={"asked": list(run.paused.interrupts)})

    async def rollback(self, run: RunContext) -> None:
        return None


@pytest.mark.parametrize("hook", [None, lambda kind, payload: payload])
@virtual
async def test_questions_that_an_event_has_no_room_for_are_there_by_their_ids_and_can_be_answered(hook: Any) -> None:
    seen, agent = Seen(hook), AsksAtLength()
    async with seen.manager as manager:
        asking = await manager.start(RunSpec(agent, thread_id="t", stream_mode="updates"))
        (streamed,) = [part.data async for part in asking.stream() if isinstance(part, StreamPart)]
        asked = await asking.result()
        assert (asked.status, asked.title) == (RunStatus.interrupted, "at length")
        end = seen.payload(LifecycleEventType.RUN_COMPLETED)
        first, second = end["interrupts"]
        assert first["value"].startswith("xxx")
        assert "[truncated:" in first["value"]
        assert len(first["value"]) < MAX_CHARS
        assert (first["id"], second) == ("a", {"id": "b", "value": "y"})
        assert end["sanitized"] is True
        resume = {"resume": {"a": "yes", "b": "no"}}
        answered = await (await manager.start(RunSpec(agent, command=resume, thread_id="t"))).result()
        assert answered.output == {"a": "yes", "b": "no"}
        state = await manager._services.states.load("t")
    assert state is not None
    assert state.values["asked"] == list(AsksAtLength.asks) == streamed["__interrupt__"]


@pytest.mark.parametrize(
    ("says", "left"),
    [
        ({"interrupts": [{"id": "a"}, "cut"]}, {"interrupts": [{"id": "a"}, {"id": None}]}),
        (
            {"completion_data": {"calls": [{"at": 0.0, "name": "m"}]}},
            {"completion_data": {"calls": [{"at": 0.0, "name": "(withheld)"}]}},
        ),
    ],
    ids=["a question that is none", "a call that began at once"],
)
def test_whatever_a_hook_leaves_in_lists_an_end_is_made_of_it(says: Any, left: Any) -> None:
    def hook(kind: LifecycleEventType, payload: Any) -> Any:
        return {"interrupts": [5, 5], "completion_data": {"calls": [None]}}

    assert redacted(hook, LifecycleEventType.RUN_COMPLETED, says).items() >= left.items()


def test_a_hook_does_not_change_how_a_run_goes_on_nor_what_it_was_rolled_back_to() -> None:
    says = {"cancel_mode": "rollback", "retried_as": "again", "pre_run_checkpoint_id": "before"}

    for hook in (lambda _, payload: {}, lambda _, payload: dict.fromkeys(payload, "hidden")):
        assert redacted(hook, LifecycleEventType.RUN_CANCELLED, dict(says)).items() >= says.items()
