"""Which of the stops of a run ask something, and which answer belongs to which open question."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from trackside.harness.errors import NotPausedError, UnansweredError, UnknownInterruptError, UnknownQuestionError
from trackside.harness.ids import is_uuid
from trackside.harness.payload import whole
from trackside.harness.ports import PausedRun

INTERRUPTS: Final = "__interrupt__"
"""The key under which a run's live output has the questions that it stops with."""

ANSWERED: Final = "answered_questions"
"""The key in `AgentResult.paused` where an agent that asks one question after another keeps what it asked before."""

NO_QUESTION: Final = "00000000-0000-0000-0000-000000000000"
"""Beside answers by the ids of their questions, it marks them as such, even if these do not look like ids, as those of
tool calls. Alone, it is the question of an answer that came when none was open, or when several were and it named none
of them: there is never such a question.
"""

_QUESTION_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the `repr` of an object: another one each time


def is_question_id(key: Any) -> bool:
    """Whether something looks like the id of a question: a UUID, or LangGraph's own."""
    return _QUESTION_ID.fullmatch(str(key)) is not None


def is_own_id(key: Any) -> bool:
    """Whether something looks like the id of a question that is made here, and not by a framework: a UUID."""
    return isinstance(key, str) and is_uuid(key)


def is_breakpoint(interrupt: Mapping[str, Any]) -> bool:
    """Whether a run has stopped there without asking anything: the stop only says what comes `next`."""
    return interrupt.get("value") is None and isinstance(interrupt.get("next"), list)


def asked_in[T: Mapping[str, Any]](interrupts: Iterable[T]) -> list[T]:
    """The questions among what a run has stopped at."""
    return [interrupt for interrupt in interrupts if not is_breakpoint(interrupt)]


def stops_said(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run was asked to stop, for the run that goes on, by its request or by the stop that it ends with."""
    return {name: asked[name] for name in ("interrupt_before", "interrupt_after") if asked.get(name)}


def answers_of(paused: PausedRun, resume: Any, *, thread_id: str, strict: bool = False) -> dict[str, Any]:
    """The answers in what a run brings as `resume`, by the ids of their questions, in the order of the questions.

    If one question is open, `resume` is the answer to it as it stands, or `{id: answer}`; if several are, it is a mapping of
    ids to answers, of some or all of them.

    Raises:
        UnknownQuestionError: (a `ValueError`) it answers a question that is not open; if `strict`, its kind
            `UnknownInterruptError`.
        UnansweredError: (a `ValueError`) several questions are open, and it does not say which one it answers.
    """
    open_ids = [str(question.get("id")) for question in paused.interrupts]
    ids = {question: question for question in open_ids}
    answers = answers_by_id(resume, ids, thread_id=thread_id, is_id=is_own_id, strict=strict)
    return {question: answers[question] for question in open_ids if question in answers}


def answers_said(resume: Any) -> Any:
    """What a run brings as `resume`, as it was said: without the mark that these are answers by ids."""
    if not isinstance(resume, Mapping) or NO_QUESTION not in resume:
        return resume
    return {key: answer for key, answer in resume.items() if key != NO_QUESTION} or resume[NO_QUESTION]


def answer_among(resume: Any, open_ids: Mapping[str, str]) -> Any:
    """What a run brings as `resume`, as its agent sees it: if one question is open, the answer to that one.

    Args:
        resume: what it brings, which fits the questions.
        open_ids: the ids that open questions go by, and for each the question's own id.
    """
    said = answers_said(resume)
    is_one = isinstance(said, Mapping) and len(said) == 1 and len({*open_ids.values()}) == 1
    return next(iter(said.values())) if is_one and said.keys() <= open_ids.keys() else said


def by_their_ids(answers: Mapping[str, Any], is_id: Callable[[Any], bool] = is_question_id) -> dict[str, Any]:
    """Answers of somebody who has looked at the questions, for a run to know them as that, whatever is open by then.

    `is_id` says what looks like an id to that run: if a key does not, a mark says that it is one.
    """
    return dict(answers) if all(map(is_id, answers)) else {**answers, NO_QUESTION: None}


def mark_of(question: Any) -> str:
    """The mark by which a question is known again when it is asked once more, whatever has kept it meanwhile.

    Raises:
        PayloadError: its own code failed while it was read.
    """
    plain = whole({"interrupts": [{"value": question}]}, path="question")  # cut where it is cut when it is kept
    text = _ADDRESS.sub("", json.dumps(plain, sort_keys=True))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def marks_of(paused: PausedRun, answered: Iterable[str]) -> list[str | None]:
    """The marks of a paused run's questions: of those that it had answers to, and of those that are `answered` now.

    None is a mark that was not kept, as by a release that kept none.
    """
    kept = paused.state.get(ANSWERED) if isinstance(paused.state, Mapping) else None
    before = kept if isinstance(kept, list) and len(kept) == len(paused.answers) else [None] * len(paused.answers)
    asked = {str(question.get("id")): question.get("value") for question in paused.interrupts}
    return [*before, *(mark_of(asked[each]) for each in answered)]


def answers_by_id(
    resume: Any, open_ids: Mapping[str, str], *, thread_id: str, is_id: Callable[[Any], bool], strict: bool = False
) -> dict[str, Any]:
    """As `answers_of`, but in the order in which the answers are given, and for questions that may go by several ids.

    Args:
        resume: what the run brings.
        open_ids: the ids that open questions go by, and for each the question's own id.
        thread_id: whose questions they are.
        is_id: whether something looks like the id of a question. The keys of a mapping are meant as ids if one of them is
            open, or all of them look like one.
        strict: as above.

    Raises:
        UnknownQuestionError, UnansweredError: as above.
    """
    ids = list(dict.fromkeys(open_ids.values()))
    is_by_id = isinstance(resume, Mapping) and bool(resume)
    if is_by_id and (NO_QUESTION in resume or any(key in open_ids for key in resume) or all(map(is_id, resume))):
        answers = {key: answer for key, answer in resume.items() if key != NO_QUESTION}
        if not answers and len(ids) > 1:
            raise UnansweredError(thread_id=thread_id, open=", ".join(ids))
        unknown = [str(key) for key in answers if key not in open_ids]
        if unknown or not answers:
            named = ", ".join(unknown) or "what was open when it came, if anything was"
            waits_for = ", ".join(ids) or "nobody's answer"
            kind = UnknownInterruptError if strict else UnknownQuestionError
            raise kind(thread_id=thread_id, open=waits_for, unknown=named, pending_ids=ids, interrupt_ids=unknown)
        return {open_ids[key]: answer for key, answer in answers.items()}
    if len(ids) > 1:
        raise UnansweredError(thread_id=thread_id, open=", ".join(ids))
    return dict.fromkeys(ids, resume)


def not_paused(
    resume: Any, *, thread_id: str, strict: bool, is_id: Callable[[Any], bool] | None = None
) -> NotPausedError:
    """Why a thread that waits for nothing takes no answer.

    Raises:
        UnknownInterruptError: (a `ValueError`) if `strict`, the answer says to which questions it is.
    """
    names_none = isinstance(resume, Mapping) and {*resume} == {NO_QUESTION}
    if strict and not names_none:
        answers_by_id(resume, {}, thread_id=thread_id, is_id=is_id or is_own_id, strict=True)
    return NotPausedError(thread_id=thread_id)
