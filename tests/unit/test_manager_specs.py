"""What makes no run and no manager: each error says what is wrong and names the field."""

import asyncio
import re
from typing import Any

import pytest
from tests.contract.recorded_log import RecordedLog
from tests.contract.ways_to_run import required, virtual

from trackside.harness import (
    DispatchPolicy,
    InvalidSpecError,
    NotAnAgentError,
    RunManager,
    RunSpec,
    StopPolicy,
    UnknownAgentError,
    UnknownRunError,
    run_agent,
)
from trackside.harness.memory import MemoryCoordinator, MemoryStream
from trackside.harness.ports import SystemClock
from trackside.harness.remembered import MemoryThreadStates
from trackside.testing import RecordingObserver, VirtualClock


async def echo(input: Any) -> Any:
    return input


async def sleeper(input: Any) -> Any:
    await asyncio.sleep(100)
    return input


def manager_of(*observers: Any, **options: Any) -> RunManager:
    return RunManager(
        {"echo": echo, "sleeper": sleeper},
        observers=[required(o) for o in observers],
        clock=VirtualClock(),
        **options,
    )


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"run_id": ""}, "run_id"),
        ({"run_id": 5}, "run_id"),
        ({"run_id": "a\nb"}, "run_id"),
        ({"thread_id": "a\0"}, "thread_id"),
        ({"metadata": ["a"]}, "metadata"),
        ({"config": "x"}, "config"),
        ({"command": "resume"}, "command"),
        ({"command": {"jump": 1}}, "command"),
        ({"command": {"resume": 1}, "input": "x"}, "command"),
        ({"multitask": "sometimes"}, "multitask"),
        ({"multitask": None}, "multitask"),
        ({"multitask": ["reject"]}, "multitask"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": 10**400}, "timeout"),
        ({"after_seconds": -1}, "after_seconds"),
        ({"after_seconds": "5"}, "after_seconds"),
        ({"after_seconds": False}, "after_seconds"),
        ({"after_seconds": float("nan")}, "after_seconds"),
        ({"after_seconds": float("inf")}, "after_seconds"),
        ({"after_seconds": 1e15}, "after_seconds"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": ["k"]}, "idempotency_key"),
        ({"parent_run_id": 5}, "parent_run_id"),
        ({"options": 5}, "options"),
        ({"parent_run_id": "a\0b"}, "parent_run_id"),
        ({"parent_run_id": "p" * 256}, "parent_run_id"),
        ({"owner": "o" * 256}, "owner"),
        ({"trigger": object()}, "trigger"),
        ({"trigger": "\ud800"}, "trigger"),
        ({"stream_mode": 5}, "stream_mode"),
        ({"stream_mode": ["values", 5]}, "stream_mode"),
    ],
    ids=lambda value: str(value)[:28],
)
@virtual
async def test_a_spec_that_makes_no_run_names_the_field(spec: dict[str, Any], field: str) -> None:
    seen = RecordingObserver()
    async with manager_of(seen) as manager:
        with pytest.raises(InvalidSpecError) as caught:
            await manager.start(RunSpec("echo", **{"input": None} | spec))
        assert caught.value.details["field"] == field
        assert str(caught.value).startswith(f"{field} = ")
        assert manager._runs.all() == []
    assert seen.events == []


@virtual
async def test_a_number_that_is_too_long_to_be_written_down_is_named_all_the_same() -> None:
    async with manager_of() as manager:
        with pytest.raises(InvalidSpecError, match="^max_attempts = '-0x") as caught:
            await manager.start(RunSpec("echo", None, max_attempts=-(10**5_000)))
    assert caught.value.details["value"] == -(10**5_000)


@virtual
async def test_unknown_things_are_named_with_what_is_known() -> None:
    async with manager_of() as manager:
        with pytest.raises(UnknownAgentError, match="There is no agent named 'ecko'; known are: echo, sleeper"):
            await manager.start(RunSpec("ecko"))
        with pytest.raises(NotAnAgentError, match="5 is not an agent: a int cannot be called"):
            await manager.start(RunSpec(5))
        with pytest.raises(UnknownRunError, match="no run 'nobody'"):
            await manager.get("nobody")
        with pytest.raises(UnknownRunError):
            await manager.cancel("nobody")
        for no_id in (5, [], None, "\ud800"):
            with pytest.raises(UnknownRunError):
                await manager.get(no_id)  # type: ignore[arg-type]
            with pytest.raises(UnknownRunError):
                await manager.cancel(no_id)  # type: ignore[arg-type]
        run = await manager.start(RunSpec("sleeper"))
        for action in ("explode", None, ["interrupt"]):
            with pytest.raises(InvalidSpecError) as caught:
                await manager.cancel(run.run_id, action=action)  # type: ignore[arg-type]
            assert caught.value.details["field"] == "action"
        assert (await manager.get(run.run_id)).cancel_requested is None


PORTS = {
    "coordinator": (MemoryCoordinator, "store.coordinator()"),
    "stream": (MemoryStream, "MemoryStream()"),
    "states": (MemoryThreadStates, "store.thread_states()"),
    "items": (None, "store.items"),
    "prices": (None, "GenaiPrices()"),
    "log": (RecordedLog, "store.run_log()"),
    "clock": (VirtualClock, "SystemClock()"),
}


@pytest.mark.parametrize("name", PORTS)
@pytest.mark.parametrize("value", [5, "x", {"m": 1.0}, [], 0, print, object()], ids=lambda value: type(value).__name__)
def test_what_cannot_be_asked_what_a_manager_has_to_ask_is_refused_with_what_to_pass(name: str, value: Any) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        RunManager(**{name: value})

    assert caught.value.details["field"] == name
    assert re.search(rf"pass {re.escape(PORTS[name][1])} or another \w+; this has no `\w+`\.$", str(caught.value))


@pytest.mark.parametrize("name", [name for name, (kind, _) in PORTS.items() if kind is not None])
def test_a_class_is_refused_where_an_object_of_it_is_taken(name: str) -> None:
    kind: Any = PORTS[name][0]

    with pytest.raises(InvalidSpecError, match=f"^{name} = .*; this is a class"):
        RunManager(**{name: kind})


@pytest.mark.parametrize(
    ("value", "this"),
    [(5, "keeps nothing"), ("sqlite", "keeps nothing"), (True, "keeps nothing"), (object, "is a class")],
)
def test_what_keeps_no_threads_is_refused_as_a_checkpointer(value: Any, this: str) -> None:
    says = f"^checkpointer = .* does not fit a run: pass store.checkpointer\\(\\) or another .*; this {this}\\.$"
    with pytest.raises(InvalidSpecError, match=says):
        RunManager(checkpointer=value)


def test_a_class_whose_methods_need_no_object_is_as_good_as_one() -> None:
    RunManager(clock=SystemClock)  # type: ignore[arg-type]


@virtual
async def test_what_is_passed_is_used_also_if_it_is_empty() -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

    class EmptyCoordinator(Empty, MemoryCoordinator): ...

    class EmptyStream(Empty, MemoryStream): ...

    class EmptyStates(Empty, MemoryThreadStates): ...

    class EmptyClock(Empty, VirtualClock): ...

    clock = EmptyClock()
    ports: dict[str, Any] = {
        "coordinator": EmptyCoordinator(clock=clock),
        "stream": EmptyStream(),
        "states": EmptyStates(),
        "clock": clock,
    }
    async with RunManager(**ports) as manager:
        assert {name: getattr(manager._services, name) for name in ports} == ports


@pytest.mark.parametrize(
    ("name", "what"), [("stopping", "StopPolicy(stuck_after=5.0)"), ("policy", "DispatchPolicy(call_limit=5.0)")]
)
@pytest.mark.parametrize("value", [5, 0, "x", {"buffer": False}, {}, StopPolicy, DispatchPolicy], ids=repr)
def test_rules_of_another_kind_are_refused_with_what_to_pass(name: str, value: Any, what: str) -> None:
    with pytest.raises(InvalidSpecError, match=f"^{name} = .*as {re.escape(what)}"):
        RunManager(**{name: value})


@pytest.mark.parametrize("prices", [{"m": 1.0}, {}, 5, print], ids=repr)
@virtual
async def test_prices_that_know_no_cost_are_refused_before_the_agent_is_called(prices: Any) -> None:
    seen = RecordingObserver()

    with pytest.raises(InvalidSpecError, match=r"^prices = .*this has no `cost_usd`"):
        await run_agent(echo, "q", observer=seen, prices=prices, max_cost_usd=0.01)

    assert seen.events == []


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", 5, None, ("a", "b")], ids=repr)
def test_a_name_of_an_agent_that_no_run_could_be_asked_for_by_or_no_database_keeps_is_refused(name: Any) -> None:
    with pytest.raises(InvalidSpecError, match=re.escape(f"agents = {name!r} does not fit a run: an agent's name is")):
        RunManager({"echo": echo, name: echo})


@virtual
async def test_a_manager_that_cannot_be_is_refused() -> None:
    for options in ({"max_running": 0}, {"max_running": 2.5}, {"max_running": True}, {"default_timeout": -1}):
        with pytest.raises(InvalidSpecError) as caught:
            RunManager(**options)  # type: ignore[arg-type]
        assert caught.value.details["field"] in options
    for grace in (-1, float("nan"), "soon"):
        with pytest.raises(InvalidSpecError) as caught:
            RunManager(shutdown_grace=grace)  # type: ignore[arg-type]
        assert caught.value.details["field"] == "shutdown_grace"
    with pytest.raises(NotAnAgentError):
        RunManager({"five": 5})
    async with RunManager() as manager:
        with pytest.raises(UnknownAgentError, match="known are: none"):
            await manager.start(RunSpec("echo"))
