"""The answers that unfinished nodes keep: what `interrupt` has returned to them, even if they have raised since.

LangGraph then goes on calling the node's last question open, and puts the next answer to it behind the one that is
kept, where the node's next question finds it. And to LangGraph, what a graph inside has asked is open until the node
that is this graph has finished, however far the graph inside has gone on.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, PendingWrite
from langgraph.types import Interrupt, StateSnapshot

from trackside.harness.adapters.langgraph._graph import Saver
from trackside.harness.adapters.langgraph._threads import INTERRUPT, RESUME, asked_questions

_ERROR = "__error__"
"""LangGraph's channel for what a node has raised."""

_OF_UNFINISHED = frozenset({_ERROR, "__error_source_node__", INTERRUPT, RESUME})
"""LangGraph's channels for what has become of a node that has not finished."""

_BY_HAND = frozenset({"update", "fork"})
"""The `source` of a checkpoint that no run has made."""


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """What a node keeps at a checkpoint, for its task: the answers it got, and the ids of their questions, in the order in
    which it asks. `asks` is False if it got one without having asked, because its graph was changed after the question.
    """

    checkpoint: RunnableConfig
    task_id: str
    ids: Sequence[str]
    answers: Sequence[Any]
    asks: bool

    def without(self, questions: AbstractSet[str]) -> KeptAnswers:
        """The answers to what it asks before any of these questions."""
        count = next((nth for nth, question in enumerate(self.ids) if question in questions), None)
        return self if count is None else replace(self, ids=self.ids[:count], answers=self.answers[:count])

    async def put(self, saver: Saver) -> None:
        """Have the node keep these, and no others."""
        await saver.aput_writes(self.checkpoint, [(RESUME, list(self.answers))], self.task_id)

    async def put_back(self, saver: Saver, instead: KeptAnswers) -> None:
        """Have the node keep these again, if it has taken no answer since it was told to keep `instead`."""
        saved = await saver.aget_tuple(self.checkpoint)
        if saved is not None and len(kept_by(self.task_id, saved.pending_writes)) == len(instead.answers):
            await self.put(saver)


@dataclass(slots=True)
class Progress:
    """How far the unfinished nodes have got: the answers they keep, and what became of the questions of graphs inside.

    The questions that these graphs have gone on past are `used_up`, in the runs `used_up_by`. `was_changed` says that
    one of the graphs was changed by hand since: it asks again, by another id.
    """

    kept: list[KeptAnswers] = field(default_factory=list)
    used_up: set[str] = field(default_factory=set)
    used_up_by: set[str] = field(default_factory=set)
    was_changed: bool = False

    async def add(self, saver: Saver, thread: StateSnapshot, pending: Sequence[PendingWrite] | None) -> None:
        """Look at the nodes of a graph, and of the graphs inside it as far as `thread` has their states.

        `pending` are the writes at the graph's checkpoint.
        """
        around = thread.config.get("configurable", {}).get("checkpoint_ns")
        for task in thread.tasks:
            if task.result is not None:
                continue
            name = f"{around}|{task.name}:{task.id}" if around else f"{task.name}:{task.id}"
            answers = kept_by(task.id, pending)
            own = ids_asked_at(name, len(answers))
            if answers:
                # A node that has not failed asks something else by now, maybe by the same id, as in older LangGraphs.
                has_failed = any((of, channel) == (task.id, _ERROR) for of, channel, _ in pending or ())
                asks = set[str]() if has_failed else {question.id for question in task.interrupts}
                ids = [question for question in own[:-1] if question not in asks]
                self.kept.append(KeptAnswers(thread.config, task.id, ids, answers, bool(task.interrupts)))
            if isinstance(task.state, StateSnapshot) and task.state.created_at is not None:
                await self._add_inside(saver, task.state, {question.id for question in task.interrupts} - {*own})

    async def _add_inside(self, saver: Saver, inside: StateSnapshot, asked: AbstractSet[str]) -> None:
        saved = await saver.aget_tuple(inside.config)
        if saved is None:
            await self.add(saver, inside, ())
            return
        used_up, gone = await _gone_past(saver, saved, asked)
        self.used_up |= used_up
        if used_up:
            self.used_up_by.add(str(saved.metadata.get("run_id")))
        if inside.tasks and gone:
            self.was_changed = True
        await self.add(saver, inside, saved.pending_writes)


def ids_asked_at(name: str, answered: int) -> list[str]:
    """The ids, made from a task's name, of the questions it has asked that are answered, and of the next one."""
    return [Interrupt.from_ns(None, f"{name}|{nth}" if nth else name).id for nth in range(answered + 1)]


def open_questions_of(pending: Sequence[PendingWrite] | None) -> dict[str, tuple[Interrupt, ...]]:
    """What the unfinished tasks of a step have asked last."""
    finished = _finished_in(pending)
    asked = {of: value for of, channel, value in pending or () if channel == INTERRUPT and of not in finished}
    return {
        of: tuple(questions) if isinstance(questions, list | tuple) else (questions,) for of, questions in asked.items()
    }


def kept_by(task_id: str, pending: Sequence[PendingWrite] | None) -> list[Any]:
    """The answers that a node keeps, for its task."""
    kept: Any = next((value for of, channel, value in pending or () if (of, channel) == (task_id, RESUME)), [])
    return kept if isinstance(kept, list) else [kept]


async def _gone_past(
    saver: Saver, newest: CheckpointTuple, questions: AbstractSet[str]
) -> tuple[AbstractSet[str], AbstractSet[str]]:
    """Which of these questions a graph inside has gone past, and which it had asked before it was changed by hand.

    It has gone past what it asked before the last step that a run made, and what nodes of the open step asked that have
    finished. A question that it has not asked is another graph's. All that is read from what is saved: where a node
    calls one of several graphs, LangGraph may show another one's tasks.
    """
    sought, used_up, gone, before_step = {*questions}, set[str](), set[str](), False
    saved: CheckpointTuple | None = newest
    while sought and saved is not None:
        asked = asked_questions(saved.pending_writes) & sought
        sought -= asked
        if before_step:
            used_up |= asked
        elif saved is newest:
            used_up |= asked & _asked_by_finished(saved.pending_writes)
        else:
            gone |= asked
        before_step = before_step or saved.metadata.get("source") not in _BY_HAND
        before = saved.parent_config if sought else None
        saved = None if before is None else await saver.aget_tuple(before)
    return used_up, gone


def _asked_by_finished(pending: Sequence[PendingWrite] | None) -> frozenset[str]:
    """What nodes that have finished asked in a step."""
    finished = _finished_in(pending)
    return asked_questions([write for write in pending or () if write[0] in finished])


def _finished_in(pending: Sequence[PendingWrite] | None) -> set[str]:
    """The tasks of a step that have finished: only these have written what LangGraph does not need itself."""
    return {of for of, channel, _ in pending or () if channel not in _OF_UNFINISHED}
