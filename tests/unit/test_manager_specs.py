"""What makes no run and no manager: each says what is wrong and names the field."""

import asyncio
from typing import Any

import pytest
from tests.contract.ways_to_run import required, virtual

from trackside.harness import (
    InvalidSpecError,
    NotAnAgentError,
    RunManager,
    RunSpec,
    UnknownAgentError,
    UnknownRunError,
)
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
