"""Turns what a thread asks into what pages show, and what the form sends into the answers that it goes on with. Pure.

All pages have the same form (`templates/answer.html`), with all open questions: a button for each answer that a
question is likely to want, and a field for any other. Answers carry the ids of their questions, so that none reaches
another question that is asked meanwhile; telling a stopped thread to go on carries the checkpoint of the stop.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from trackside.app.dashboard.cutting import Cut, cut, json_cut, json_text, seen_in
from trackside.app.server.failures import HttpError
from trackside.harness.agents.approvals import approval_of
from trackside.harness.errors import InvalidSpecError
from trackside.harness.questions import answers_said, is_breakpoint, is_question_id
from trackside.harness.types import JsonObject

_MOST_CHOICES: Final = 12
_MOST_OF_CHOICE: Final = 100
_MOST_OF_CALL: Final = 200

STOP: Final = {"select": ["next", "checkpoint", "metadata"]}
"""The parts of a thread's state that `stop_in` reads, and which run it is from."""

ANSWERED: Final = "this is not asked any more: somebody has answered already"

_YES_NO: Final = re.compile(
    r"^\s*(may|shall|should|can|could|do|does|did|is|are|was|were|will|would|has|have|ok|okay|approve|proceed|continue|"
    r"really|send|delete)\b.{0,400}\?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_EITHER_OR: Final = re.compile(r"\bor\b", re.IGNORECASE)


class Choice(NamedTuple):
    """An answer as its button shows it, and as the agent gets it, in JSON."""

    label: str
    json: str


_YES: Final = (Choice("Yes", "true"), Choice("No", "false"))
_GO_ON: Final = (Choice("Go on", "true"),)
_DECISIONS: Final = (("Approve", "approve"), ("Reject", "reject"))
_RESPOND: Final = "respond"  # what a human has typed is what the action returns


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a run or a thread waits for."""

    id: str | None
    """For a stop, the checkpoint's id. None: nothing can answer it."""
    text: Cut
    more: Cut | None
    """What else came with it, as JSON."""
    choices: tuple[Choice, ...] = ()
    """The answers that it is likely to want; any other can be typed."""
    takes_reason: bool = False
    """Whether typed text goes along with a choice."""
    takes_text: bool = True
    """Whether typed text is an answer by itself."""
    is_approval: bool = False
    """Whether only a yes fits, or a no that may say why."""
    is_stop: bool = False
    """Whether it asks nothing: the run has stopped between two steps."""

    def chosen(self, choice: Choice) -> str:
        """What the form sends for this choice: the question that it answers, and the answer."""
        return json_text({"question": self.id, "answer": msgspec.Raw(choice.json.encode())})


def questions_of(interrupts: Any) -> tuple[Question, ...]:
    """The questions that a run has ended with, each with the form that fits it."""
    listed = interrupts if isinstance(interrupts, list | tuple) else ()
    return tuple(_question(one) for one in listed if isinstance(one, Mapping))


def stop_in(state: Mapping[str, Any]) -> JsonObject | None:
    """Where a thread has stopped between two steps, in the form in which its run has ended with it; None: nowhere.

    Args:
        state: the thread's current state, its `next` and `checkpoint`.
    """
    if not state["next"]:
        return None
    return {"id": (state["checkpoint"] or {}).get("checkpoint_id"), "value": None, "next": state["next"]}


def _question(interrupt: Mapping[str, Any]) -> Question:
    said_id = interrupt.get("id")
    own = None if said_id is None else str(said_id)
    value = interrupt.get("value")
    if is_breakpoint(interrupt):
        text = f"It has stopped before {', '.join(map(str, interrupt['next']))}."
        return Question(id=own, text=cut(text), more=None, choices=_GO_ON, is_stop=True)
    if isinstance(value, str):
        return Question(id=own, text=cut(value), more=None, choices=_YES if is_yes_no(value) else ())
    if not isinstance(value, Mapping):
        return Question(id=own, text=json_cut(value), more=None)
    if isinstance(value.get("tool"), str) and "arguments" in value:
        is_asked = value.get("kind", "approval") == "approval"
        call = called(value["tool"], value["arguments"])
        text = f"May {call} be called?" if is_asked else f"What does {call} return?"
        choices: tuple[Choice, ...] = _YES if is_asked else ()
        takes = is_approval(value)
        more = json_cut(value["arguments"])
        return Question(id=own, text=cut(text), more=more, choices=choices, takes_reason=takes, is_approval=takes)
    requests = value.get("action_requests")
    if isinstance(requests, list) and requests:
        return _review(own, value, requests)
    return _asked(own, value)


def is_approval(value: Any) -> bool:
    """Whether a framework asks whether a tool may be called: `approval_of` reads the answer, and nothing else fits.

    A user's own function that asks in a similar way gets what its author expects: true or false, or whatever is typed.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("tool"), str):
        return False
    return value.get("kind") == "approval" or {*value} == {"tool", "arguments", "agent"}


def called(tool: str, arguments: Any) -> str:
    """A tool call on one line, so that two calls of the same tool can be told apart."""
    if not isinstance(arguments, Mapping) or not arguments:
        return tool
    said = f"{tool}({', '.join(f'{name}={seen_in(json_text(value))}' for name, value in arguments.items())})"
    return said if len(said) <= _MOST_OF_CALL else f"{said[:_MOST_OF_CALL]}…)"


def _review(own: str | None, value: Mapping[str, Any], requests: Sequence[Any]) -> Question:
    """The question about actions an agent wants to do: a button decides the same on each, and is there if all
    allow it.
    """
    number, allowed = len(requests), _allowed_decisions(value)
    every: Collection[str] = (
        {kind for _, kind in _DECISIONS} if allowed is None else set.intersection(*map(set, allowed))
    )
    text = "May it do this?" if number == 1 else f"May it do these {number} things?"
    if number == 1 and every == {_RESPOND}:
        text = f"What does {called(str(requests[0].get('name', 'it')), requests[0].get('args'))} return?"
    return Question(
        id=own,
        text=cut(text),
        more=json_cut(value),
        choices=tuple(_on_each(label, kind, number) for label, kind in _DECISIONS if kind in every),
        takes_reason="reject" in every,
        takes_text=allowed is None or (number == 1 and _RESPOND in every),
    )


def _on_each(label: str, kind: str, number: int) -> Choice:
    return Choice(label, json_text({"decisions": [{"type": kind}] * number}))


def _allowed_decisions(value: Any) -> list[frozenset[str]] | None:
    """What may be decided on each action that a LangChain agent asks about; None: it asks otherwise, or names none."""
    if not isinstance(value, Mapping):
        return None
    requests, configs = value.get("action_requests"), value.get("review_configs")
    if not (isinstance(requests, list) and requests and isinstance(configs, list)):
        return None
    known = [one for one in configs if isinstance(one, Mapping) and isinstance(one.get("allowed_decisions"), list)]
    by_name = {str(one.get("action_name")): frozenset(map(str, one["allowed_decisions"])) for one in known}
    found = [by_name.get(str(one.get("name"))) if isinstance(one, Mapping) else None for one in requests]
    allowed = [one for one in found if one is not None]
    return allowed if len(allowed) == len(found) else None


def _asked(own: str | None, value: Mapping[str, Any]) -> Question:
    names = ("question", "prompt", "message", "text", "title")
    key = next((name for name in names if isinstance(value.get(name), str)), None)
    if key is None:
        return Question(id=own, text=cut("It waits for an answer."), more=json_cut(value))
    text = value[key]
    choices, offered = _choices(value)
    rest = {name: one for name, one in value.items() if name not in {key, offered}}
    if not choices and is_yes_no(text):
        choices = _YES
    return Question(id=own, text=cut(text), more=json_cut(rest) if rest else None, choices=choices)


def _choices(value: Mapping[str, Any]) -> tuple[tuple[Choice, ...], str | None]:
    """The answers that a question offers, and the name under which it offers them."""
    for name in ("options", "choices"):
        offered = value.get(name)
        if isinstance(offered, list) and 0 < len(offered) <= _MOST_CHOICES and all(map(_is_short, offered)):
            return tuple(Choice(str(one), json_text(one)) for one in offered), name
    return (), None


def _is_short(offered: Any) -> bool:
    return isinstance(offered, str | int | float) and len(str(offered)) <= _MOST_OF_CHOICE


def is_yes_no(text: str) -> bool:
    """Whether a question is answered by yes or no."""
    last = text.strip().splitlines()[-1] if text.strip() else ""
    return _YES_NO.match(last) is not None and _EITHER_OR.search(last) is None


class Answers(Struct, kw_only=True):
    """The form: a field for each question, in order, or the one answer that was chosen by its button."""

    csrf: str | None = None
    question: list[str]
    """The ids."""
    answer: list[str] = []
    read_as: list[Literal["auto", "text", "json"]] = []
    """How to read typed text: as JSON, as text, or as whichever it looks like."""
    choice: list[str] = []
    """With several questions, what was chosen for each, in the form of `Question.chosen`; empty: nothing."""
    chosen: str | None = None
    """In the form of `Question.chosen`."""
    starts: bool = True
    """Whether a run goes on with it. If not, the reply says what that run would get, to a client that starts and
    follows it itself: values as JSON texts, because scripts in browsers have no numbers as large as JSON."""


class _Chosen(Struct, kw_only=True):
    question: str | None
    answer: Any


def answers_of(given: Answers, open_ids: Collection[str], asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The answers, by the ids of their questions.

    Args:
        given: the form.
        open_ids: the questions that the thread waits for, or the stop at which it stands.
        asked: what the questions ask, by their ids.

    Raises:
        HttpError: there is no answer, it is not JSON although it should be, the one who asked would not take it, or the
            question is no longer open.
    """
    asked = asked or {}
    typed = dict(zip(given.question, given.answer, strict=False))
    answers = _together(given, typed, asked) if given.chosen is None else _chosen(given.chosen, typed, asked)
    if not answers:
        raise HttpError(status=422, detail="there is no answer yet: write one")
    if not {*answers} <= {*open_ids}:
        raise HttpError(status=409, detail=ANSWERED)
    for question, answer in answers.items():
        if is_approval(asked.get(question)):
            _check_approval(answer)
        elif (allowed := _allowed_decisions(asked.get(question))) is not None:
            _check_decisions(answer, allowed)
    return answers


def _check_approval(answer: Any) -> None:
    try:
        approval_of(answer)
    except InvalidSpecError as exc:
        why = (
            'this is answered by Yes or No; a No may say why. Write yes or no, or {"approved": false, "message": "why"}'
        )
        raise HttpError(status=422, detail=why) from exc


def _check_decisions(answer: Any, allowed: Sequence[Collection[str]]) -> None:
    decisions = _decisions_in(answer)
    if decisions is not None and len(decisions) == len(allowed):
        kinds = [one.get("type") if isinstance(one, Mapping) else None for one in decisions]
        if all(kind in some for kind, some in zip(kinds, allowed, strict=True)):
            return
    each = "; ".join(" or ".join(sorted(some)) for some in allowed)
    example = json_text({"decisions": [{"type": min(some, default="")} for some in allowed]})
    why = f"this is answered by a decision on each of its actions, as {example}; what may be decided is {each}"
    raise HttpError(status=422, detail=why)


def _decisions_in(answer: Any) -> list[Any] | None:
    decisions = answer.get("decisions") if isinstance(answer, Mapping) else None
    return decisions if isinstance(decisions, list) else None


def closed_by(asked: Mapping[str, Any] | None, open_ids: Collection[str]) -> frozenset[str]:
    """Which open questions a run closes: those that it answers by their ids, else all, because it answers the only one
    or begins anew.

    Args:
        asked: what the run was asked for; None: nobody knows.
        open_ids: the questions that its thread waits for.
    """
    command = (asked or {}).get("command")
    resume = answers_said(command.get("resume")) if isinstance(command, Mapping) else None
    by_id = resume.keys() & {*open_ids} if isinstance(resume, Mapping) else ()
    return frozenset(by_id or open_ids)


def request_of(
    answers: Mapping[str, Any], *, stops: Mapping[str, Any] | None = None, is_first: bool = False
) -> dict[str, Any]:
    """The request for a run that goes on with answers; a run that goes on after a stop gets nothing new.

    Args:
        answers: the answers, by the ids of their questions.
        stops: where the run is to stop again, if the answers tell it to go on after a stop.
        is_first: whether the run is refused if another has the thread, instead of waiting for that.
    """
    asked: dict[str, Any] = {"command": {"resume": answers}} if stops is None else {"input": None, **stops}
    return {**asked, "multitask_strategy": "reject"} if is_first else asked


def _together(given: Answers, typed: Mapping[str, str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answers that were chosen for some questions and typed for others."""
    chosen: dict[str, Any] = {}
    for choice in filter(None, given.choice):
        chosen |= _chosen(choice, typed, asked)
    return _typed(given, {*chosen}, asked) | chosen


def _chosen(chosen: str, typed: Mapping[str, str], asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        of = msgspec.json.decode(chosen, type=_Chosen)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise HttpError(status=422, detail=f"the choice cannot be read: {exc}") from exc
    question = of.question or ""
    reason = typed.get(question, "")
    if is_approval(asked.get(question)) and of.answer is False and reason.strip():
        return {question: {"approved": False, "message": _lines(reason).strip()}}
    return {question: _with_reason(of.answer, reason)}


def _with_reason(answer: Any, typed: str) -> Any:
    """The answer, in which a rejection says why if somebody has typed a reason."""
    decisions = _decisions_in(answer)
    if not typed.strip() or decisions is None or any(one != {"type": "reject"} for one in decisions):
        return answer
    return {"decisions": [{**one, "message": _lines(typed).strip()} for one in decisions]}


def _typed(given: Answers, but: Collection[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    ways = [*given.read_as, *["auto"] * len(given.question)]
    every = zip(given.question, given.answer, ways, strict=False)
    return {
        question: _responded(value_of(text, way), text, asked.get(question))
        for question, text, way in every
        if text.strip() and question not in but
    }


def _responded(answer: Any, typed: str, value: Any) -> Any:
    """Typed text as the result of an action, if that is allowed; with several actions, nobody knows of which one."""
    match _allowed_decisions(value):
        case [allowed] if _RESPOND in allowed and _decisions_in(answer) is None:
            return {"decisions": [{"type": _RESPOND, "message": _lines(typed).strip()}]}
        case _:
            return answer


def value_of(text: str, way: str = "auto", *, what: str = "the answer") -> Any:
    """What somebody has typed: as JSON if it is JSON, else as text.

    Args:
        text: what was typed.
        way: `auto`; `text`: as it is, even if it is JSON; `json`: only JSON.
        what: what a refusal calls it.

    Raises:
        HttpError: it is not JSON, and should be.
    """
    text = _lines(text)
    if way == "text":
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        if way == "json":
            raise HttpError(status=422, detail=f"{what} is not JSON: {exc}") from exc
        return text


def answers_read(resume: Any, questions: Collection[Question]) -> list[tuple[str | None, str]]:
    """What a human has answered, in words: the question, if it is known, and the answer.

    Args:
        resume: what the run was asked to go on with.
        questions: the questions that were open.
    """
    resume = answers_said(resume)
    asked = (question for question in questions if not question.is_stop)
    texts = {question.id: question.text.text for question in asked if question.id is not None}
    if not isinstance(resume, Mapping) or not resume or not resume.keys() <= texts.keys():
        only = next(iter(texts.values())) if len(texts) == 1 else None
        return [(only, answer_read(only_answer(resume)))]
    return [(texts[question], answer_read(answer)) for question, answer in resume.items()]


def only_answer(resume: Any) -> Any:
    """The answer if a run brings only one, whether or not it names its question; else all of them, by their ids."""
    if not isinstance(resume, Mapping) or len(resume) != 1:
        return resume
    ((question, answer),) = resume.items()
    return answer if is_question_id(question) else resume


def answer_read(answer: Any) -> str:
    """An answer in words if there are any for it, else as JSON."""
    if isinstance(answer, bool):
        return "Yes" if answer else "No"
    if isinstance(answer, str):
        return answer
    if isinstance(answer, Mapping) and isinstance(answer.get("approved"), bool) and "arguments" not in answer:
        said = answer.get("message")
        return answer_read(answer["approved"]) + (f": {said}" if isinstance(said, str) and said else "")
    return json_cut(answer).text


def _lines(text: str) -> str:
    """The text with the line ends that everything except forms uses."""
    return text.replace("\r\n", "\n")
