"""Which answer belongs to which open question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.harness.errors import UnansweredError, UnknownQuestionError
from trackside.harness.ids import is_uuid
from trackside.harness.ports import PausedRun


def answers_of(paused: PausedRun, resume: Any, *, thread_id: str) -> dict[str, Any]:
    """The answers in what a run brings as `resume`, by the ids of their questions, in the order of these.

    If one question is open, `resume` is the answer to it as it stands, or `{id: answer}`; if several are, it is a mapping of
    ids to answers, of some or all of them.

    Raises:
        UnknownQuestionError: (a `ValueError`) it answers a question that is not open.
        UnansweredError: (a `ValueError`) several questions are open, and it does not say which one it answers.
    """
    open_ids = [str(question.get("id")) for question in paused.interrupts]
    by_id = isinstance(resume, Mapping) and bool(resume) and _are_ids(resume, open_ids)
    if by_id:
        if unknown := [str(key) for key in resume if key not in open_ids]:
            raise UnknownQuestionError(thread_id=thread_id, open=", ".join(open_ids), unknown=", ".join(unknown))
        return {question: resume[question] for question in open_ids if question in resume}
    if len(open_ids) > 1:
        raise UnansweredError(thread_id=thread_id, open=", ".join(open_ids))
    return dict.fromkeys(open_ids, resume)


def _are_ids(resume: Mapping[Any, Any], open_ids: list[str]) -> bool:
    """Whether the keys are meant as ids of questions: one is open, or all of them look like one (ids are UUIDs)."""
    return any(key in open_ids for key in resume) or all(isinstance(key, str) and is_uuid(key) for key in resume)
