"""The shapes that the contract fixes, to the letter: names, order, defaults, frozen or not."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import MISSING, FrozenInstanceError, fields
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

import pytest

from trackside.harness.observer import (
    CallbackObserver,
    CompositeObserver,
    LifecycleEventType,
    NullObserver,
    ObserverBinding,
    RunLifecycleEvent,
    RunResult,
)
from trackside.harness.types import (
    CancelAction,
    CancelMode,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def shape(kind: Any) -> list[tuple[str, Any]]:
    """The fields of a data class in order, each with its default; `...` where it has none."""

    def default(field: dataclasses.Field[Any]) -> Any:
        if field.default_factory is not MISSING:
            return field.default_factory()
        return ... if field.default is MISSING else field.default

    return [(field.name, default(field)) for field in dataclasses.fields(kind)]


def values(kind: type[Enum]) -> list[str]:
    return [member.value for member in kind]


def test_run_status_has_the_seven_statuses_in_order_named_like_their_values() -> None:
    assert issubclass(RunStatus, StrEnum)
    assert values(RunStatus) == ["pending", "running", "success", "error", "timeout", "interrupted", "cancelled"]
    assert [status.name for status in RunStatus] == values(RunStatus)


def test_lifecycle_event_type_has_six_members_and_no_more() -> None:
    assert issubclass(LifecycleEventType, str)
    assert {member.name: member.value for member in LifecycleEventType} == {
        "RUN_STARTED": "run_started",
        "RUN_COMPLETED": "run_completed",
        "RUN_FAILED": "run_failed",
        "RUN_CANCELLED": "run_cancelled",
        "HUMAN_MESSAGE": "human_message",
        "THREAD_STATUS_UPDATED": "thread_status_updated",
    }
    assert len(LifecycleEventType.__members__) == 6


def test_lifecycle_event_type_is_the_same_in_both_modules() -> None:
    from trackside.harness import observer, types

    assert observer.LifecycleEventType is types.LifecycleEventType


@pytest.mark.parametrize("kind", [RunStatus, LifecycleEventType])
def test_statuses_and_event_types_are_their_text(kind: type[StrEnum]) -> None:
    for member in kind:
        assert member == member.value
        assert f"{member}" == member.value
        assert kind(member.value) is member


def test_event_has_the_contracts_fields_in_order_with_an_empty_payload_by_default() -> None:
    assert shape(RunLifecycleEvent) == [
        ("event_id", ...),
        ("event_type", ...),
        ("run_id", ...),
        ("thread_id", ...),
        ("sequence", ...),
        ("occurred_at", ...),
        ("payload", {}),
    ]


def test_event_can_be_made_by_position() -> None:
    event = RunLifecycleEvent("e", LifecycleEventType.RUN_STARTED, "r", "t", 1, WHEN, {"agent": "a"})

    assert (event.event_id, event.event_type, event.run_id, event.thread_id) == ("e", "run_started", "r", "t")
    assert (event.sequence, event.occurred_at, event.payload) == (1, WHEN, {"agent": "a"})


def test_event_is_frozen() -> None:
    event = RunLifecycleEvent("e", LifecycleEventType.RUN_STARTED, "r", "t", 1, WHEN)

    with pytest.raises(FrozenInstanceError):
        event.sequence = 2  # type: ignore[misc]


def test_events_do_not_share_their_default_payload() -> None:
    one = RunLifecycleEvent("e", LifecycleEventType.RUN_STARTED, "r", "t", 1, WHEN)
    other = RunLifecycleEvent("e", LifecycleEventType.RUN_STARTED, "r", "t", 1, WHEN)

    assert isinstance(one.payload, Mapping)
    assert one.payload is not other.payload
    assert one == other


def test_run_result_has_the_contracts_fields_in_order_and_defaults() -> None:
    assert shape(RunResult) == [
        ("run_id", ...),
        ("thread_id", ...),
        ("status", ...),
        ("error", None),
        ("completion_data", {}),
        ("title", None),
        ("output", None),  # ours, keyword only
    ]
    assert [field.name for field in fields(RunResult) if field.kw_only] == ["output"]


def test_run_result_is_mutable() -> None:
    result = RunResult("r", "t", RunStatus.success)
    result.title = "A talk about the weather"
    result.completion_data["total_tokens"] = 3

    assert result == RunResult("r", "t", RunStatus.success, None, {"total_tokens": 3}, "A talk about the weather")
    assert RunResult("r", "t", RunStatus.success).completion_data == {}


def test_binding_is_frozen_and_optional_by_default() -> None:
    assert shape(ObserverBinding) == [
        ("observer", ...),
        ("required", False),
        ("name", None),  # ours, keyword only
    ]
    assert [field.name for field in fields(ObserverBinding) if field.kw_only] == ["name"]
    binding = ObserverBinding(NullObserver())

    with pytest.raises(FrozenInstanceError):
        binding.required = True  # type: ignore[misc]


def test_callback_observer_is_a_data_class_with_slots_and_one_field() -> None:
    async def watch(event: RunLifecycleEvent) -> None: ...

    assert shape(CallbackObserver) == [("callback", ...)]
    observer = CallbackObserver(watch)
    assert CallbackObserver.__slots__ == ("callback",)
    assert not hasattr(observer, "__dict__")
    assert observer == CallbackObserver(watch)


def test_composite_takes_a_list_or_none_and_adds_with_required_by_keyword() -> None:
    constructor = inspect.signature(CompositeObserver.__init__).parameters
    assert [*constructor] == ["self", "observers"]
    assert constructor["observers"].default is None

    add = inspect.signature(CompositeObserver.add).parameters
    assert [*add] == ["self", "observer", "required"]
    assert add["required"].kind is inspect.Parameter.KEYWORD_ONLY
    assert add["required"].default is False
    assert inspect.iscoroutinefunction(CompositeObserver.on_event)


def test_observer_like_and_run_event_callback_are_type_statements() -> None:
    from typing import TypeAliasType

    from trackside.harness.observer import ObserverLike, RunEventCallback, RunObserver

    assert isinstance(ObserverLike, TypeAliasType)
    assert isinstance(RunEventCallback, TypeAliasType)
    assert set(ObserverLike.__value__.__args__) == {RunObserver, RunEventCallback, type(None)}


def test_other_enums_have_the_fields_words() -> None:
    assert values(ThreadStatus) == ["idle", "busy", "interrupted", "error"]
    assert values(MultitaskStrategy) == ["reject", "enqueue", "interrupt", "rollback"]
    assert values(CancelAction) == ["interrupt", "rollback"]
    assert values(CancelMode) == ["interrupt", "rollback", "shutdown", "task_cancelled"]


def test_run_spec_takes_agent_and_input_by_position_and_all_else_by_keyword() -> None:
    spec = RunSpec("chat", {"question": "?"}, thread_id="t")

    assert (spec.agent, spec.input, spec.thread_id, spec.multitask) == ("chat", {"question": "?"}, "t", "enqueue")
    with pytest.raises(TypeError):
        RunSpec("chat", None, "t")  # type: ignore[call-arg]


def test_a_run_spec_is_changed_and_read_as_a_data_class_is() -> None:
    asked = RunSpec("agent", {"text": "hello"}, metadata={"customer": "ada"})
    changed = dataclasses.replace(asked, input=None, timeout=3.0)
    assert (changed.agent, changed.input, changed.metadata, changed.timeout) == ("agent", None, asked.metadata, 3.0)
    assert RunSpec(**dataclasses.asdict(changed)) == changed
    with pytest.raises(TypeError, match="colour"):
        dataclasses.replace(asked, colour="red")  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        asked.input = 1  # type: ignore[misc]


def test_run_spec_has_the_documented_options() -> None:
    assert {name for name, _ in shape(RunSpec)} >= {
        "agent",
        "input",
        "thread_id",
        "run_id",
        "metadata",
        "config",
        "context",
        "command",
        "multitask",
        "timeout",
        "after_seconds",
        "idempotency_key",
        "parent_run_id",
        "trigger",
    }


@pytest.mark.parametrize(
    "value",
    [RunSpec("chat"), RunRecord(run_id="r", thread_id="t", agent="a", status=RunStatus.pending, created_at=WHEN)],
)
def test_spec_and_record_are_frozen_and_slotted(value: Any) -> None:
    with pytest.raises(AttributeError):
        value.thread_id = "other"
    assert not hasattr(value, "__dict__")
