"""The tables of a run's life, from every side: each status, each event, and each pair of them."""

from itertools import product
from typing import Any

import pytest

from trackside.harness.errors import EventOrderError
from trackside.harness.lifecycle import (
    FINAL_STATUSES,
    RUN_TRANSITIONS,
    STATUSES_OF_EVENT,
    TERMINAL_EVENTS,
    RunFold,
    is_final,
    is_terminal,
    run_status_of,
    terminal_event_of,
    thread_status_after,
    thread_status_of,
)
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

STARTED = LifecycleEventType.RUN_STARTED
COMPLETED = LifecycleEventType.RUN_COMPLETED
FAILED = LifecycleEventType.RUN_FAILED
CANCELLED = LifecycleEventType.RUN_CANCELLED
HUMAN = LifecycleEventType.HUMAN_MESSAGE
THREAD = LifecycleEventType.THREAD_STATUS_UPDATED

FINAL = {RunStatus.success, RunStatus.error, RunStatus.timeout, RunStatus.interrupted, RunStatus.cancelled}

# What each event does to a run in each status; None: it cannot follow. Written out, so that a changed table shows.
AFTER: dict[RunStatus, dict[LifecycleEventType, RunStatus | None]] = {
    RunStatus.pending: {
        STARTED: RunStatus.running,
        COMPLETED: RunStatus.success,  # in the log of somebody else's harness
        FAILED: RunStatus.error,
        CANCELLED: RunStatus.cancelled,
        HUMAN: None,
        THREAD: None,
    },
    RunStatus.running: {
        STARTED: None,
        COMPLETED: RunStatus.success,
        FAILED: RunStatus.error,
        CANCELLED: RunStatus.cancelled,
        HUMAN: RunStatus.running,
        THREAD: RunStatus.running,
    },
    **{
        status: {STARTED: None, COMPLETED: None, FAILED: None, CANCELLED: None, HUMAN: None, THREAD: status}
        for status in FINAL
    },
}


def folded(status: RunStatus) -> RunFold:
    """A run in this status, as events would bring it there."""
    if status is RunStatus.pending:
        return RunFold("r")
    started = RunFold("r").apply(STARTED, 1, {})
    if status is RunStatus.running:
        return started
    return started.apply(terminal_event_of(status), 2, {"status": status.value})


def test_every_status_has_its_transitions() -> None:
    assert set(RUN_TRANSITIONS) == set(RunStatus)


@pytest.mark.parametrize(("before", "after"), list(product(RunStatus, RunStatus)))
def test_each_transition_is_allowed_exactly_where_it_should_be(before: RunStatus, after: RunStatus) -> None:
    allowed = (before in {RunStatus.pending, RunStatus.running} and after in FINAL) or (
        before is RunStatus.pending and after is RunStatus.running
    )

    assert (after in RUN_TRANSITIONS[before]) is allowed


def test_five_statuses_are_final() -> None:
    assert FINAL_STATUSES == FINAL
    assert {status for status in RunStatus if is_final(status)} == FINAL


def test_three_events_end_a_run() -> None:
    assert set(TERMINAL_EVENTS) == {COMPLETED, FAILED, CANCELLED}
    assert {kind for kind in LifecycleEventType if is_terminal(kind)} == {COMPLETED, FAILED, CANCELLED}


def test_every_final_status_has_the_one_event_that_announces_it() -> None:
    assert {status: terminal_event_of(status) for status in FINAL} == {
        RunStatus.success: COMPLETED,
        RunStatus.interrupted: COMPLETED,
        RunStatus.error: FAILED,
        RunStatus.timeout: FAILED,
        RunStatus.cancelled: CANCELLED,
    }


@pytest.mark.parametrize("kind", LifecycleEventType)
def test_event_without_a_status_means_its_plain_case(kind: LifecycleEventType) -> None:
    plain = {
        STARTED: RunStatus.running,
        COMPLETED: RunStatus.success,
        FAILED: RunStatus.error,
        CANCELLED: RunStatus.cancelled,
    }

    assert run_status_of(kind, {}) is plain.get(kind)


@pytest.mark.parametrize(("kind", "said"), list(product(LifecycleEventType, RunStatus)))
def test_event_sets_the_status_it_says_only_if_that_belongs_to_it(kind: LifecycleEventType, said: RunStatus) -> None:
    status = run_status_of(kind, {"status": said.value})

    if kind in STATUSES_OF_EVENT:
        assert status is (said if said in STATUSES_OF_EVENT[kind] else run_status_of(kind, {}))
    else:
        assert status is None


@pytest.mark.parametrize("said", [None, 5, "", "done", ["success"], {"a": 1}], ids=repr)
def test_odd_status_in_a_payload_means_the_plain_case(said: Any) -> None:
    assert run_status_of(COMPLETED, {"status": said}) is RunStatus.success
    assert thread_status_of(THREAD, {"status": said}) is None


@pytest.mark.parametrize(("kind", "said"), list(product(LifecycleEventType, ThreadStatus)))
def test_only_thread_events_set_a_threads_status(kind: LifecycleEventType, said: ThreadStatus) -> None:
    assert thread_status_of(kind, {"status": said.value}) is (said if kind is THREAD else None)


@pytest.mark.parametrize("status", sorted(FINAL))
def test_thread_after_its_run(status: RunStatus) -> None:
    alone = {
        RunStatus.success: ThreadStatus.idle,
        RunStatus.cancelled: ThreadStatus.idle,
        RunStatus.interrupted: ThreadStatus.interrupted,
        RunStatus.error: ThreadStatus.error,
        RunStatus.timeout: ThreadStatus.error,
    }

    assert thread_status_after(status, another_waits=False) is alone[status]
    assert thread_status_after(status, another_waits=True) is ThreadStatus.busy


@pytest.mark.parametrize(("before", "kind"), list(product(RunStatus, LifecycleEventType)))
def test_each_event_does_to_each_status_what_the_table_says(before: RunStatus, kind: LifecycleEventType) -> None:
    fold = folded(before)
    after = AFTER[before][kind]

    if after is None:
        with pytest.raises(EventOrderError):
            fold.apply(kind, fold.sequence + 1, {})
    else:
        assert fold.apply(kind, fold.sequence + 1, {}) == RunFold("r", after, fold.sequence + 1)


@pytest.mark.parametrize(("before", "status"), list(product(RunStatus, sorted(FINAL))))
def test_each_end_of_a_run_takes_it_to_its_status_once(before: RunStatus, status: RunStatus) -> None:
    fold, payload = folded(before), {"status": status.value}

    if before in FINAL:
        with pytest.raises(EventOrderError, match="the run has ended"):
            fold.apply(terminal_event_of(status), fold.sequence + 1, payload)
    else:
        assert fold.apply(terminal_event_of(status), fold.sequence + 1, payload).status is status


@pytest.mark.parametrize(("before", "kind"), list(product(RunStatus, LifecycleEventType)))
@pytest.mark.parametrize("step", [-1, 0, 2, 100])
def test_only_the_next_sequence_follows(before: RunStatus, kind: LifecycleEventType, step: int) -> None:
    fold = folded(before)

    with pytest.raises(EventOrderError, match=f"the next sequence number is {fold.sequence + 1}"):
        fold.apply(kind, fold.sequence + step, {})


@pytest.mark.parametrize(
    ("before", "kind", "why"),
    [
        (RunStatus.pending, HUMAN, "the first event of a run starts it or ends it"),
        (RunStatus.pending, THREAD, "the first event of a run starts it or ends it"),
        (RunStatus.running, STARTED, "the run has started already"),
        (RunStatus.success, HUMAN, r"the run has ended \(success\)"),
        (RunStatus.timeout, STARTED, r"the run has ended \(timeout\)"),
        (RunStatus.cancelled, COMPLETED, r"the run has ended \(cancelled\)"),
    ],
)
def test_refusal_names_the_event_the_run_and_the_reason(before: RunStatus, kind: LifecycleEventType, why: str) -> None:
    fold = folded(before)

    with pytest.raises(EventOrderError, match=rf"Event \d \({kind}\) of run 'r' does not follow: {why}") as caught:
        fold.apply(kind, fold.sequence + 1, {})
    assert (caught.value.run_id, caught.value.sequence) == ("r", fold.sequence + 1)  # type: ignore[attr-defined]


def test_fold_is_not_changed_by_what_follows_it() -> None:
    fold = folded(RunStatus.running)
    fold.apply(COMPLETED, 2, {})

    assert fold == RunFold("r", RunStatus.running, 1)


def test_tables_are_keyed_by_what_is_a_text_too() -> None:
    # A database's rows come back as texts.
    assert is_terminal(LifecycleEventType("run_failed"))
    assert "run_failed" in TERMINAL_EVENTS
    assert "success" in FINAL_STATUSES
