"""What a paused run asks, and the command that answers it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trackside.app.cli.formatting import count, json_line
from trackside.app.cli.records.protocol import Home
from trackside.app.command_lines import command_line
from trackside.harness.ports import PausedRun
from trackside.harness.questions import answers_of, asked_in, by_their_ids, is_breakpoint
from trackside.harness.types import Json, JsonObject


def interrupts_of(payload: Mapping[str, Any]) -> list[JsonObject]:
    """The questions that a `run_completed` leaves open."""
    interrupts = payload.get("interrupts")
    return [one for one in interrupts if isinstance(one, dict)] if isinstance(interrupts, list | tuple) else []


def answer_to(questions: Sequence[JsonObject], answer: Json, *, thread_id: str) -> Json:
    """The `resume` that answers questions that somebody has looked at: the answers by their ids.

    That way, none of them reaches another question that is asked meanwhile, or lets a thread go on past another stop.

    Raises:
        UnknownQuestionError, UnansweredError: (a `ValueError`) as `answers_of`.
    """
    answers = answers_of(PausedRun(input=None, interrupts=questions), answer, thread_id=thread_id)
    return by_their_ids(answers) if all(question.get("id") is not None for question in questions) else answer


def is_stop(questions: Sequence[JsonObject]) -> bool:
    """Whether these mean that a run has stopped between two steps and asks nothing."""
    return bool(questions) and not asked_in(questions)


def question_text(interrupt: JsonObject) -> str:
    """The question of an interrupt: text as it is, a tool call as code, a breakpoint as what comes next, else JSON."""
    value = interrupt.get("value")
    if is_breakpoint(interrupt):
        return f"before {', '.join(map(str, interrupt['next']))}"
    if isinstance(value, dict) and _is_call(value):
        call = f"{value['tool']}({_arguments(value['arguments'])})"
        return f"may {call} be called?" if _is_approval(value) else f"what does {call} return?"
    return value if isinstance(value, str) else json_line(value)


def question_lines(interrupts: Sequence[JsonObject]) -> list[str]:
    """The questions, with their ids if there are several, because the answers need those."""
    several = len(interrupts) > 1
    return [
        f"[{interrupt['id']}] {question_text(interrupt)}" if several and "id" in interrupt else question_text(interrupt)
        for interrupt in interrupts
    ]


def answer_note(interrupts: Sequence[JsonObject]) -> str:
    """What to say above the command that answers."""
    if is_stop(interrupts):
        return "It has stopped without a question; this lets it go on:"
    approvals = sum(_is_approval(interrupt.get("value")) for interrupt in interrupts)
    form = ' (true, false, or {"approved": false, "message": "why not"})' if approvals else ""
    if len(interrupts) == 1:
        return f"It waits for {'an approval' if approvals else 'an answer'}{form}:"
    kind = "approval" if approvals == len(interrupts) else "answer"
    return f"It waits for {count(len(interrupts), kind)}{form}; those that are left out stay open:"


def resume_command(thread_id: str, interrupts: Sequence[JsonObject], home: Home) -> str:
    """The command that answers the questions of a thread: all at once, by their ids if there are several."""
    answers = {str(interrupt.get("id")): _form_of(interrupt) for interrupt in interrupts}
    one = "true" if True in answers.values() else "'ANSWER'"
    answer = shlex.quote(json.dumps(answers)) if len(answers) > 1 else one
    return command_line("resume", thread_id, rest=answer, flags=home.flags)


def _form_of(interrupt: JsonObject) -> Json:
    return True if is_breakpoint(interrupt) or _is_approval(interrupt.get("value")) else "ANSWER"


def _is_call(value: Json) -> bool:
    """Whether a question is about a tool call, as the adapters of frameworks ask it."""
    return isinstance(value, dict) and isinstance(value.get("tool"), str) and "arguments" in value


def _is_approval(value: Json) -> bool:
    return _is_call(value) and value.get("kind", "approval") == "approval"


def _arguments(arguments: Json) -> str:
    if not isinstance(arguments, dict):
        return arguments if isinstance(arguments, str) else json_line(arguments)
    return ", ".join(f"{name}={json_line(value)}" for name, value in arguments.items())
