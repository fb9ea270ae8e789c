"""States of threads, whatever keeps them: agents that keep checkpoints, or the store, which knows each thread's current
state.

A thread of an agent that keeps no checkpoints has one state. Where clients name checkpoints, it goes by the id of the
thread, so that clients that look for a checkpoint, as front ends do, find it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from trackside.app.server.access import agent_of_thread, caller_of, check_served
from trackside.app.server.calls import Call, id_of, place_name
from trackside.app.server.copying import forget_checkpoints
from trackside.app.server.failures import HttpError
from trackside.app.server.parts import ServerParts
from trackside.app.server.wire.runs import CheckpointRef
from trackside.app.server.wire.states import empty_state
from trackside.app.storage import StoredThread
from trackside.harness.context import Agent
from trackside.harness.errors import (
    BusyMeanwhileError,
    InvalidSpecError,
    ThreadBusyError,
    UnknownCheckpointError,
    UnknownThreadError,
)
from trackside.harness.payload import json_bytes
from trackside.harness.states import Caller, KeepsThreads, StateSnapshot, StateUpdate, ThreadPlace, asked_of
from trackside.harness.types import JsonObject, RunStatus, ThreadStatus

_START: Final = "__start__"
"""What is next where a run is about to begin, as LangGraph calls it."""


@dataclass(frozen=True, slots=True)
class StatesOfThread:
    """The states of one thread, for a caller who may see it."""

    parts: ServerParts
    thread: StoredThread
    caller: Caller

    @classmethod
    def of(cls, call: Call[Any, Any], thread: StoredThread) -> Self:
        """The states of a thread, for the caller."""
        return cls(call.parts, thread, caller_of(call.parts, call.principal))

    async def state(self, at: CheckpointRef | None = None, *, subgraphs: bool = False) -> StateSnapshot:
        """The newest state, or that of a checkpoint.

        While a run of the thread is not over, something is next in its newest state: if the agent has not said so
        itself, because the run has not begun yet or keeps no checkpoints, that run is next. Clients that come back to a
        thread follow it only if its state says that it goes on.

        Raises:
            UnknownCheckpointError: the thread has no such checkpoint.
            HttpError: it is one of another thread, or its agent is not served here.
            AgentFailedError: the agent's own code has failed.
        """
        state = await self._kept(at, subgraphs=subgraphs)
        if at is None and not state.next and await self.goes_on():
            return replace(state, next=(_START,))
        return state

    async def history(
        self,
        *,
        limit: int,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        at: CheckpointRef | None = None,
    ) -> Sequence[StateSnapshot]:
        """The states, newest first.

        Raises:
            UnknownCheckpointError, HttpError, AgentFailedError: as `state`.
            InvalidSpecError: the metadata cannot be looked for.
        """
        if before is not None:
            place_name("before", before)
        agent = self._agent()
        if agent is not None and isinstance(agent, KeepsThreads):
            asked = agent.history(self._place(at), limit=limit, before=before, metadata=metadata)
            return await asked_of(agent, asked)
        state = await self._only_state(agent, at)
        if state is None or before is not None:
            return []
        wanted = metadata or {}
        return [state] if all(state.metadata.get(key) == value for key, value in wanted.items()) else []

    async def update(self, change: StateUpdate, at: CheckpointRef | None = None) -> JsonObject:
        """Change the thread, and learn the new state's checkpoint.

        What agents without checkpoints remember is changed key by key: given keys are replaced, the others stay, and so
        does an open question.

        Raises:
            ThreadBusyError: a run of the thread is not over; `BusyMeanwhileError`: one began while the state was changed.
            UnknownThreadError: it was removed meanwhile, and nothing is left of the change.
            InvalidSpecError: the values, or the node, do not fit the agent.
            UnknownCheckpointError, HttpError, AgentFailedError: as `state`, or the thread's agent is not known.
        """
        agent, thread = self._agent(), self.thread
        if agent is None:
            why = "nothing has run on this thread, so its agent is not known: make it with a graph_id, or start a run"
            raise HttpError(status=422, detail=why)
        holder = await self.parts.store.threads_of(None).holder(thread.thread_id)
        if holder is not None or thread.status is ThreadStatus.busy:
            raise ThreadBusyError(thread_id=thread.thread_id, run_id=holder or thread.last_run_id)
        came: str | None = None
        async with self.changing():
            if isinstance(agent, KeepsThreads):
                asked = agent.update_state(self._place(at), change.values, as_node=change.as_node)
                checkpoint = await asked_of(agent, asked)
                came = await self._run_since()
            else:
                checkpoint = await self._update_only_state(agent, change, at)
            await self.note_change()
        if came is not None:
            raise BusyMeanwhileError(thread_id=thread.thread_id, run_id=came)
        return checkpoint

    @asynccontextmanager
    async def changing(self) -> AsyncGenerator[None]:
        """Around a change of the thread on behalf of no run: if it is removed meanwhile, nothing is left of the change.

        The store refuses what is put then. Another checkpointer takes it, and is asked to forget the thread once more.

        Raises:
            UnknownThreadError: it was removed.
        """
        parts, thread = self.parts, self.thread
        try:
            with parts.store.threads_of(None).changing(thread):
                yield
        except UnknownThreadError:
            await forget_checkpoints(parts, self._agent(), thread.thread_id)
            raise

    async def note_change(self) -> None:
        """Tell those who look for the thread, or follow it, that it was changed on behalf of no run.

        Raises:
            UnknownThreadError: it was removed meanwhile.
            StorageError: that could not be stored.
        """
        parts, thread_id = self.parts, self.thread.thread_id
        state = await self._kept()  # a run that begins later is next for clients, but asks nobody anything
        await parts.store.threads_of(None).note_state(thread_id, waits=bool(state.next))
        if parts.streams.threads.is_heard(thread_id):
            says = state.as_json() if state.outputs is None else {**state.as_json(), "output": state.output}
            parts.streams.threads.note_state(thread_id, json_bytes(says))

    async def _run_since(self) -> str | None:
        """A run that was let in after the thread was looked at: it may have begun with the state of that time."""
        threads, before = self.parts.store.threads_of(None), self.thread
        holder = await threads.holder(before.thread_id)
        last = (await threads.get(before.thread_id)).last_run_id
        return holder or (last if last != before.last_run_id else None)

    async def _kept(self, at: CheckpointRef | None = None, *, subgraphs: bool = False) -> StateSnapshot:
        """A state as it is kept, regardless of runs that are not over."""
        agent = self._agent()
        if agent is not None and isinstance(agent, KeepsThreads):
            found = await asked_of(agent, agent.state(self._place(at), subgraphs=subgraphs))
        else:
            found = await self._only_state(agent, at)
        return found or empty_state(self.thread.thread_id, self._place(at).namespace)

    async def _update_only_state(self, agent: Agent, change: StateUpdate, at: CheckpointRef | None) -> JsonObject:
        thread = self.thread
        await self._only_state(agent, at)
        if change.as_node is not None:
            why = f"the agent {agent.name!r} has no nodes"
            raise InvalidSpecError(field="as_node", value=change.as_node, why=why)
        if not isinstance(change.values, dict):
            raise InvalidSpecError(field="values", value=change.values, why="it is an object of the values to change")
        await self.parts.store.thread_states().change(thread.thread_id, change.values)
        return self._only_place()

    async def goes_on(self) -> bool:
        """Whether a run of the thread is not over; one that has not begun has not changed the thread's status yet."""
        if self.thread.status is ThreadStatus.busy:
            return True
        unfinished = (RunStatus.pending, RunStatus.running)
        return bool(await self.parts.store.runs(thread_id=self.thread.thread_id, status=unfinished, limit=1))

    def _agent(self) -> Agent | None:
        """The agent that keeps the thread; None if it is not known because nothing has run on the thread.

        Raises:
            HttpError: it is not served here.
        """
        check_served(self.thread, self.parts.manager)
        name = agent_of_thread(self.thread, self.parts.manager)
        return None if name is None else self.parts.manager.agents[name]

    def _place(self, at: CheckpointRef | None) -> ThreadPlace:
        thread_id = self.thread.thread_id
        at = at or CheckpointRef()
        if at.thread_id is not None and id_of(at.thread_id) != thread_id:
            raise HttpError(status=422, detail="checkpoint.thread_id is another thread than the one in the path")
        for namespace, checkpoint_id in (at.checkpoint_map or {}).items():
            place_name("checkpoint.checkpoint_map", f"{namespace}{checkpoint_id}")
        return ThreadPlace(
            thread_id=thread_id,
            checkpoint_id=place_name("checkpoint_id", at.checkpoint_id or "") or None,
            namespace=place_name("checkpoint_ns", at.checkpoint_ns or ""),
            checkpoints=at.checkpoint_map or {},
            checkpointer=self.parts.checkpointer,
            caller=self.caller,
        )

    def _only_place(self) -> JsonObject:
        thread_id = self.thread.thread_id
        return {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": thread_id}

    async def _only_state(self, agent: Agent | None, at: CheckpointRef | None) -> StateSnapshot | None:
        """The one state of a thread whose agent keeps no checkpoints; None if it has none yet."""
        thread = self.thread
        place = self._place(at)
        if place.checkpoint_id not in {None, thread.thread_id}:
            if agent is not None:
                why = f"the agent {agent.name!r} keeps no checkpoints, only what its threads are now"
                raise HttpError(status=422, detail=f"checkpoint {place.checkpoint_id!r:.120}: {why}")
            raise UnknownCheckpointError(thread_id=thread.thread_id, checkpoint_id=place.checkpoint_id)
        if place.namespace:
            raise HttpError(status=422, detail=f"checkpoint_ns = {place.namespace!r:.120}: there is no agent inside")
        found = None if agent is None else await self.parts.store.thread_states().load_dated(thread.thread_id)
        if agent is None or found is None:
            return None
        state, saved_at = found
        questions = [] if state.paused is None else [dict(question) for question in state.paused.interrupts]
        whose = {"id": thread.last_run_id or thread.thread_id, "name": agent.name, "path": []}
        task = {**whose, "error": None, "interrupts": questions, "checkpoint": None, "state": None, "result": None}
        return StateSnapshot(
            values=state.values,
            next=(agent.name,) if questions else (),
            tasks=[task] if questions else [],
            checkpoint=self._only_place(),
            metadata={} if thread.last_run_id is None else {"run_id": thread.last_run_id},
            created_at=saved_at.isoformat(),
            interrupts=questions,
        )
