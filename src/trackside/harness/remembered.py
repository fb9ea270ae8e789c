"""What threads remember in one process: the embedded default, and the double that tests use."""

from __future__ import annotations

import logging
from collections import OrderedDict
from copy import deepcopy
from threading import Lock
from typing import override

from trackside.harness.observing.weighing import size_of
from trackside.harness.ports import RunCoordinator, ThreadState

logger = logging.getLogger("trackside.worker")

KEEP_THREADS = 10_000
KEEP_THREADS_BYTES = 256 * 1_048_576


class MemoryThreadStates:
    """What threads remember, for as long as the process lives and there is room. From any event loop, in any thread.

    The oldest are forgotten first, those that wait for an answer last, and never what was saved last.
    """

    immediate = True

    def __init__(self, *, keep_threads: int = KEEP_THREADS, keep_bytes: int = KEEP_THREADS_BYTES) -> None:
        self._keep = keep_threads
        self._keep_bytes = keep_bytes
        self._states: OrderedDict[str, tuple[ThreadState, int]] = OrderedDict()
        self._asking: OrderedDict[str, tuple[ThreadState, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    async def load(self, thread_id: str) -> ThreadState | None:
        """What the thread remembers."""
        with self._lock:
            kept = self._states.get(thread_id) or self._asking.get(thread_id)
        # A copy, as from a database: what an agent does to its values is remembered only when its run has succeeded.
        return None if kept is None else _copy_of(kept[0])

    async def save(self, thread_id: str, state: ThreadState, *, run_id: str | None = None) -> None:
        """Remember this from now on, whichever run wants it: in one process nobody ends the run of another."""
        # Another copy: the caller gets the same values as the run's output, and may do with those what it likes.
        state = _copy_of(state)
        size = self._size_of(state)
        with self._lock:
            former = self._states.pop(thread_id, None) or self._asking.pop(thread_id, None)
            self._bytes += size - (0 if former is None else former[1])
            (self._states if state.paused is None else self._asking)[thread_id] = (state, size)
            self._make_room_locked(thread_id)

    def _size_of(self, state: ThreadState) -> int:
        size = size_of(state.values, self._keep_bytes)
        if (paused := state.paused) is not None:  # its input may contain itself, so it is not looked at for as long
            size += size_of({"": [paused.input, [*paused.answers], [*paused.interrupts], paused.state]})
        return size

    def _make_room_locked(self, newest: str) -> None:
        states, asking = self._states, self._asking
        while (kept := len(states) + len(asking)) > self._keep or (self._bytes > self._keep_bytes and kept > 1):
            oldest = states if states and next(iter(states)) != newest else asking or states
            self._bytes -= oldest.popitem(last=False)[1][1]


def states_beside(coordinator: RunCoordinator | None) -> MemoryThreadStates:
    """Where threads remember if the manager is not told where."""
    return _LeftByRuns() if coordinator is not None and coordinator.durable else MemoryThreadStates()


class _LeftByRuns(MemoryThreadStates):
    """For a coordinator whose runs outlive the process: whoever is asked has to know that the questions do not."""

    _has_said = False

    @override
    async def save(self, thread_id: str, state: ThreadState, *, run_id: str | None = None) -> None:
        await super().save(thread_id, state, run_id=run_id)
        if state.paused is not None and not self._has_said:
            self._has_said = True
            kept = "RunManager(…, states=store.thread_states()) keeps questions, and what threads remember, as long as runs"
            logger.warning("thread %s waits for an answer that this process alone can take: %s", thread_id, kept)


def _copy_of(state: ThreadState) -> ThreadState:
    try:
        paused = deepcopy(state.paused)
    except Exception:  # noqa: BLE001  # an input may be anything here, also what cannot be copied: that is kept as it is
        paused = state.paused
    return ThreadState(deepcopy(state.values), paused)
