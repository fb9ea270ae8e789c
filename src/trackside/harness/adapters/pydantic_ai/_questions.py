"""Pauses for deferred tools: what is asked, what is remembered meanwhile, what the answers say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_ai.messages import ModelMessage, ToolCallPart
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied

from trackside.harness.adapters.pydantic_ai._messages import kept, recalled
from trackside.harness.agents.approvals import Approval, approval_of
from trackside.harness.agents.kept_context import kept_context
from trackside.harness.context import AgentResult, RunContext
from trackside.harness.payload import whole
from trackside.harness.types import Json, JsonObject

_APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An agent that waits for answers to some calls of tools: what it has said so far, what it asks, who has answered what.

    `questions` are `{"id", "value": {"tool", "arguments", "kind", "metadata"?}}`, whose `kind` is `approval`,
    `external` (whoever answers has executed it) or `question`; `answers` are as they were given, by the questions' ids.
    """

    history: Json
    questions: list[JsonObject]
    answers: Mapping[str, Any]

    @classmethod
    def asked(cls, requests: DeferredToolRequests, messages: list[ModelMessage]) -> Waiting:
        """What an agent that has stopped at these calls asks."""
        calls = [*requests.approvals, *requests.calls]
        return cls(kept(messages), [_question(call, requests) for call in calls], {})

    @classmethod
    def answered(cls, run: RunContext) -> Waiting:
        """What is known of the agent that a run goes on with, the run's answers included.

        Raises:
            InvalidSpecError: an answer does not fit its question.
        """
        state = run.paused.state if run.paused is not None else {}
        waiting = cls(state["history"], state["questions"], {**state["answers"], **run.answers_by_id})
        waiting.results()
        return waiting

    @property
    def open(self) -> list[JsonObject]:
        """The questions that nobody has answered."""
        return [question for question in self.questions if question["id"] not in self.answers]

    def messages(self, thread_id: str) -> list[ModelMessage]:
        """What the agent has said so far."""
        return recalled(self.history, thread_id=thread_id)

    def result(self, run: RunContext) -> AgentResult:
        """The result of a run that leaves questions open."""
        paused = {"history": self.history, "questions": self.questions, "answers": whole(self.answers)}
        return AgentResult(interrupts=self.open, paused=paused | kept_context(run))

    def results(self) -> DeferredToolResults:
        """The answers so far in the form that the framework takes.

        Raises:
            InvalidSpecError: one does not fit its question.
        """
        results = DeferredToolResults()
        for question in self.questions:
            call_id, value = question["id"], question["value"]
            if call_id not in self.answers:
                continue
            if value["kind"] == _APPROVAL:
                results.approvals[call_id] = _decision(approval_of(self.answers[call_id]))
            else:
                results.calls[call_id] = self.answers[call_id]
            if "metadata" in value:
                results.metadata[call_id] = value["metadata"]
        return results


def calls_in(paused: Any) -> frozenset[str]:
    """The ids of all calls of tools in what was remembered of an agent that waits."""
    history = paused.get("history") if isinstance(paused, Mapping) else None
    parts = (part for message in history or () for part in message.get("parts") or ())
    return frozenset(part["tool_call_id"] for part in parts if part.get("tool_call_id"))


def _question(call: ToolCallPart, requests: DeferredToolRequests) -> JsonObject:
    call_id = call.tool_call_id
    value = {"tool": call.tool_name, "arguments": whole(call.args_as_dict()), "kind": requests.kind(call_id)}
    if metadata := requests.metadata.get(call_id):
        value["metadata"] = whole(metadata)
    return {"id": call_id, "value": value}


def _decision(approval: Approval) -> ToolApproved | ToolDenied:
    if approval.approved:
        return ToolApproved(override_args=None if approval.arguments is None else dict(approval.arguments))
    return ToolDenied() if approval.message is None else ToolDenied(approval.message)
