"""What a graph's checkpointer knows about a thread: where to go on, and how to put it back to what it was before a run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    empty_checkpoint,
)
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.types import Interrupt

from trackside.harness.adapters.langgraph._graph import Graph, Saver, checkpointer_of
from trackside.harness.adapters.langgraph._looking import look, state_at
from trackside.harness.adapters.langgraph._sent_on import NO_TASK
from trackside.harness.context import RunContext

INTERRUPT = "__interrupt__"
"""The key under which LangGraph streams and stores questions."""

RESUME = "__resume__"
"""The key under which it stores what a task was answered."""

BROUGHT_BY = "__no_writes__"
"""The key under which a run's id is stored with what its command brings: LangGraph's own for a node that has written
nothing, so LangGraph applies nothing of it.
"""

_ATTEMPT = "__trackside_attempt__"  # a write of no task, which LangGraph passes over, as are the next two
_AT_STOP = "__trackside_at_stop__"
_RENAMED = "__trackside_renamed__"
_COPY = "__copy__"  # LangGraph's `as_node` for a new checkpoint that is like an old one
_KEPT_BY_COPY = frozenset({"parents", "counters_since_delta_snapshot"})  # of its metadata


class LeftUnfinished(NamedTuple):
    """Another attempt at a run goes on where the one before was: where it began if `is_origin`, else at the newest."""

    is_origin: bool


async def left_unfinished(
    graph: Graph, run: RunContext, newest: RunnableConfig, origin: RunnableConfig
) -> LeftUnfinished | None:
    """Whether another attempt at a run can go on from where the one before was, instead of beginning with its input.

    It can if the thread's newest checkpoint is that attempt's, or one that the attempt itself went on from, and nodes
    are to come. With an answer it can also if all nodes of the step have finished, and there is no checkpoint of that
    yet. Anywhere else, what an answer is for is determined anew: it may be refused as the one before was.
    """
    saver = checkpointer_of(graph)
    saved = await saver.aget_tuple(newest) if saver is not None else None
    if saved is None:
        return None
    noted = (value for _, channel, value in saved.pending_writes or () if channel == _ATTEMPT)
    is_its = run.retry_of in (saved.metadata.get("run_id"), *noted)
    if not (is_its or run.resuming):
        return None
    thread = await look(graph, newest if is_its else origin)
    left = bool(thread.tasks)  # also if all nodes of a step have finished, and there is no checkpoint of that yet
    if run.resuming:
        left = is_its or (left and not thread.next)
    return LeftUnfinished(not is_its) if left else None


async def note_attempt(saver: Saver, run_id: str, place: RunnableConfig, *, at_stop: bool = False) -> None:
    """Note at a checkpoint that this run goes on from it, or stays `at_stop`, in case it leaves none of its own."""
    saved = await saver.aget_tuple(place)
    if saved is not None:
        await saver.aput_writes(saved.config, [(_AT_STOP if at_stop else _ATTEMPT, run_id)], run_id)


def noted_at_stop(saved: CheckpointTuple) -> frozenset[str]:
    """The attempts that have stayed at the stop where a checkpoint is."""
    return frozenset(value for _, channel, value in saved.pending_writes or () if channel == _AT_STOP)


async def roll_back(graph: Graph, run_id: str, thread_id: str, pending: Sequence[PendingWrite] | None) -> str | None:
    """Make a thread's newest state the one that was there before a run; returns that one's checkpoint id, if any.

    The old checkpoint is copied and the run's own stay as history: LangGraph's savers cannot remove single ones. A
    thread that the run began is deleted. `pending` are the questions and results that waited in the step which the run
    went on with (None: it began a step of its own); they wait again in the copy. There questions, and the stop if it is
    one, get new ids, and the ids that people know them by are remembered. What waited inside a sub-graph or a
    functional-API task runs again. What a graph inside that keeps its state from run to run (`checkpointer=True`) has
    learnt is forgotten the same way.
    """
    saver = checkpointer_of(graph)
    if saver is None:
        return None
    before, wrote = await _checkpoint_before(saver, run_id, thread_id)
    if before is None:
        if wrote:
            await _delete_begun(saver, run_id, thread_id)
        return None
    await _roll_back_inside(saver, run_id, thread_id)
    if wrote or (pending is not None and _written(saver, pending) != _written(saver, before.pending_writes)):
        copy = await graph.aupdate_state(before.config, None, as_node=_COPY)
        waiting = (before.pending_writes if pending is None else pending) or ()
        renamed = await _put_pending(graph, saver, waiting, before.config, copy)
        renamed[before.checkpoint["id"]] = str(copy.get("configurable", {})["checkpoint_id"])
        known = {old: renamed[new] for old, new in renamed_questions(waiting).items() if new in renamed}
        await saver.aput_writes(copy, [(_RENAMED, known | renamed)], run_id)
    return str(before.checkpoint["id"])


def _written(saver: Saver, pending: Sequence[PendingWrite] | None) -> list[tuple[str, str, tuple[str, bytes]]]:
    """What waits in a step, as it is serialised, since not all values can be compared; without who has brought it,
    which changes nothing.
    """
    serde = saver.serde
    if isinstance(serde, EncryptedSerializer):  # it writes nothing twice in the same way
        serde = serde.serde
    return [
        (task, key, serde.dumps_typed(value))
        for task, key, value in pending or ()
        if (task, key) != (NO_TASK, BROUGHT_BY)
    ]


def renamed_questions(pending: Sequence[PendingWrite] | None) -> Mapping[str, str]:
    """The ids that a thread's waiting questions, and its stop, had before rollbacks, with those that they have now."""
    return next((value for _, channel, value in pending or () if channel == _RENAMED), {})


async def _delete_begun(saver: Saver, run_id: str, thread_id: str) -> None:
    """Delete a thread that a run began; a saver that knows of runs refuses if this one has ended and others went on."""
    if (delete_begun := getattr(saver, "adelete_begun_thread", None)) is not None:
        await delete_begun(thread_id, run_id)
    else:
        await saver.adelete_thread(thread_id)


def asked_questions(pending: Sequence[PendingWrite] | None) -> frozenset[str]:
    """The ids of the questions that were asked in a step, answered or not."""
    asked = (value for _, channel, value in pending or () if channel == INTERRUPT)
    return frozenset(question.id for questions in asked for question in _several(questions))


async def _roll_back_inside(saver: Saver, run_id: str, thread_id: str) -> None:
    """Restore the graphs inside that keep their state to the one from before a run; to an empty one if there was none.

    They keep it by the names of the nodes that lead to them; the state of any other graph inside is that of one task,
    whose id is in the name.
    """
    of_run = saver.alist({"configurable": {"thread_id": thread_id}}, filter={"run_id": run_id})
    async with aclosing(cast("AsyncGenerator[CheckpointTuple]", of_run)) as checkpoints:
        namespaces = {
            str(checkpoint.config.get("configurable", {}).get("checkpoint_ns", "")) async for checkpoint in checkpoints
        }
    for namespace in sorted(namespaces):
        if namespace and ":" not in namespace:
            before, wrote = await _checkpoint_before(saver, run_id, thread_id, namespace)
            if wrote:
                await _put_copy(saver, before, {"thread_id": thread_id, "checkpoint_ns": namespace})


async def _put_copy(saver: Saver, old: CheckpointTuple | None, place: Mapping[str, str]) -> None:
    """Save a new checkpoint like an old one, as LangGraph does by `_COPY`; for None, an empty one."""
    checkpoint = empty_checkpoint()
    metadata: dict[str, Any] = {"source": "fork", "step": -2, "parents": {}}
    parent: RunnableConfig = {"configurable": {**place}}
    if old is not None:
        kept = {key: said for key, said in old.metadata.items() if key in _KEPT_BY_COPY}
        metadata |= {**kept, "step": old.metadata.get("step", -2) + 1}
        checkpoint = cast("Checkpoint", {**old.checkpoint, "id": checkpoint["id"], "ts": checkpoint["ts"]})
        parent = old.parent_config or parent
    await saver.aput(parent, checkpoint, cast("CheckpointMetadata", metadata), {})


async def _checkpoint_before(
    saver: Saver, run_id: str, thread_id: str, namespace: str = ""
) -> tuple[CheckpointTuple | None, bool]:
    """A thread's newest checkpoint that is not of this run (None: there is none), and whether the run wrote any."""
    wrote = False
    newest_first = saver.alist({"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace}})
    async with aclosing(cast("AsyncGenerator[CheckpointTuple]", newest_first)) as checkpoints:
        async for checkpoint in checkpoints:
            if checkpoint.metadata.get("run_id") != run_id:
                return checkpoint, wrote
            wrote = True
    return None, wrote


async def _put_pending(
    graph: Graph,
    saver: Saver,
    pending: Sequence[PendingWrite],
    old: RunnableConfig,
    new: RunnableConfig,
) -> dict[str, str]:
    """Let what waited in the step after the old checkpoint wait after the new one: the same tasks have other ids there.

    Returns the old and the new ids of questions.
    """
    renamed: dict[str, str] = {}
    if not pending:
        return renamed
    if brought := [(channel, value) for task_id, channel, value in pending if task_id == NO_TASK]:
        await saver.aput_writes(new, brought, NO_TASK)  # first: they may say which tasks there are
    ids = {task.path: task.id for task in (await state_at(graph, new)).tasks}
    moves = [(task.id, ids.get(task.path), task.name) for task in (await state_at(graph, old)).tasks]
    for old_id, new_id, name in moves:
        writes = [(channel, value) for task_id, channel, value in pending if task_id == old_id]
        if writes and new_id is not None:
            answered = sum(len(value) for channel, value in writes if channel == RESUME and isinstance(value, list))
            moved: list[tuple[str, Any]] = []
            for channel, value in writes:
                if channel != INTERRUPT:
                    moved.append((channel, value))
                elif questions := _moved(value, f"{name}:{old_id}", f"{name}:{new_id}", answered):
                    moved.append((channel, list(questions.values())))
                    renamed.update({old: question.id for old, question in questions.items()})
            await saver.aput_writes(new, moved, new_id)
    return renamed


def _moved(questions: Any, old: str, new: str, answered: int) -> dict[str, Interrupt]:
    """A task's questions as they are in its new namespace, by their old ids; without those of graphs inside it.

    A question's id is a hash of its task's namespace and, from the second on, of how many were answered before.
    """
    moved: dict[str, Interrupt] = {}
    for question in _several(questions):
        for nth in range(answered + 1):
            suffix = f"|{nth}" if nth else ""
            if question.id == Interrupt.from_ns(None, f"{old}{suffix}").id:
                schema = question.response_schema
                moved[question.id] = Interrupt.from_ns(question.value, f"{new}{suffix}", response_schema=schema)
    return moved


def _several(questions: Any) -> Sequence[Interrupt]:
    return questions if isinstance(questions, list | tuple) else [questions]
