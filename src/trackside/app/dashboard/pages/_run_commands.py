"""The commands that start a run anew from a shell: `trackside run`, and `curl`. Pure. All that users wrote is quoted,
and signs that a terminal would obey during pasting, whatever the quotes, are escaped or left out.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trackside.app.command_lines import command_line
from trackside.app.dashboard.questions import Question
from trackside.app.server.calls import is_served
from trackside.app.server.wire.runs import said_of
from trackside.harness.questions import answers_said

_MOST_CHARS: Final = 30_000
"""One argument of a command line may have 128 KiB, as UTF-8; quotes in it take up more."""
_KEY: Final = '"$TRACKSIDE_API_KEY"'
_OBEYED_SIGNS: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters except tabs and line ends
_OBEYED: Final = re.compile(f"[{_OBEYED_SIGNS}]")
_PLAIN_TEXT: Final = re.compile(f"[A-Za-z][^{_OBEYED_SIGNS}]*")
_NO_OPTIONS: Final = ("context", "interrupt_before", "interrupt_after", "durability", "strict_resume", "after_seconds")
"""Parts of a request for which the command line has no options."""
_LIMITS: Final = {
    "timeout": "--timeout",
    "max_tokens": "--max-tokens",
    "max_cost_usd": "--max-cost",
    "max_llm_calls": "--max-llm-calls",
    "max_tool_calls": "--max-tool-calls",
}
"""The limits of a run in its own process. A server takes none of them, because it has limits of its own."""
_WORDS_OF_JSON: Final = frozenset({"true", "false", "null", "NaN", "Infinity"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """What can be copied."""

    show: str
    retry: str
    run: str | None
    """Goes over HTTP if the run can be started again that way; otherwise, as with limits, it must be typed where the
    database is. None: no options express the request."""
    curl: str | None
    """None: HTTP has no such thread, or no such limit."""
    input_file: str | None = None
    """The name of the file that must be saved first, because the command line would be too long."""
    argument: tuple[str, str] | None = None
    """The only part of it that the command line reads, and from which file."""


def create_request(request: Mapping[str, Any], agent: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The body with which the API starts the same run."""
    body: dict[str, Any] = {"assistant_id": agent, **said_of(request)}
    if metadata:
        body["metadata"] = dict(metadata)
    if request.get("multitask") not in (None, "enqueue"):
        body["multitask_strategy"] = request["multitask"]
    return body


def own_limits(request: Mapping[str, Any]) -> dict[str, Any]:
    """The timeout and the budgets that were asked for with a run; bodies of the API have none."""
    return {name: limit for name in _LIMITS if (limit := request.get(name)) is not None}


def commands_of(
    *,
    run_id: str,
    thread_id: str,
    agent: str,
    request: Mapping[str, Any],
    metadata: Mapping[str, Any],
    base_url: str,
    goes_on: bool,
    asks_who: bool,
) -> Commands:
    """The commands to type.

    Args:
        run_id: the run.
        thread_id: its thread.
        agent: the agent that ran.
        request: what was asked for.
        metadata: the run's metadata.
        base_url: where the API is.
        goes_on: whether the run went on with what its thread remembered; otherwise the new run gets its own thread.
        asks_who: whether the API wants a key, which is in a variable.
    """
    body = create_request(request, agent, metadata)
    address = f"{base_url}/threads/{thread_id}/runs" if goes_on else f"{base_url}/runs"
    if not goes_on:
        body["on_completion"] = "keep"
    data = _json(body)
    is_long = len(data) > _MOST_CHARS
    argument = _argument_of(request) if is_long else None
    place = f"--url {shlex.quote(base_url)}" + (f" --api-key {_KEY}" if asks_who else "")
    is_over_http = (is_served(thread_id) or not goes_on) and not _limits(request)
    curl = " \\\n  ".join(
        [
            f"curl -sS -X POST {shlex.quote(address)}",
            *(['-H "X-Api-Key: $TRACKSIDE_API_KEY"'] if asks_who else []),
            "-H 'Content-Type: application/json'",
            "--data-binary @request.json" if is_long else f"--data-raw {shlex.quote(data)}",
        ]
    )
    return Commands(
        show=f"trackside runs {place} {run_id}",
        retry=f"trackside retry {place} {run_id}",
        run=_run(
            place if is_over_http else None,
            thread_id,
            agent,
            request,
            metadata,
            goes_on=goes_on,
            file=None if argument is None else f"@{argument[1]}",
        ),
        curl=curl if is_over_http else None,
        input_file="request.json" if is_long else None,
        argument=argument,
    )


def answer_command(thread_id: str, questions: Sequence[Question]) -> str:
    """The command that answers what a thread asks, to be typed where its database is."""
    answers = {one.id: True if one.is_approval or one.is_stop else "ANSWER" for one in questions}
    several, first = len(answers) > 1, next(iter(answers.values()), "ANSWER")
    answer = _json(answers) if several else _json(first) if first is True else "ANSWER"
    return command_line("resume", thread_id, answer)


def _run(
    place: str | None,
    thread_id: str,
    agent: str,
    request: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    goes_on: bool,
    file: str | None,
) -> str | None:
    command, config = (_mapping(request.get(name)) for name in ("command", "config"))
    if command.keys() - {"resume"} or any(config.values()) or any(map(request.get, _NO_OPTIONS)):
        return None

    def start(name: str, *words: str) -> str:
        kept = [word for each in metadata.items() for word in _metadata(*each)]
        options = (*_limits(request), *words, *kept)
        return " ".join([name] + ([] if place is None else [place]) + [shlex.quote(word) for word in options])

    if command:
        return command_line(start("resume"), thread_id, file or _json(answers_said(command["resume"])))
    given = request.get("input")
    rest = [] if given is None else [file or _argument(given)]
    return command_line(start("run", *(["--thread", thread_id] if goes_on else [])), agent, *rest)


def _argument_of(request: Mapping[str, Any]) -> tuple[str, str] | None:
    """Which part of a request is an argument, and the name of a file for it."""
    if _mapping(request.get("command")):
        return "command.resume", "answer.json"
    return None if request.get("input") is None else ("input", "input.json")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _limits(request: Mapping[str, Any]) -> list[str]:
    return [word for name, limit in own_limits(request).items() for word in (_LIMITS[name], _json(limit))]


def _metadata(name: str, value: Any) -> list[str]:
    """The option from which the command line reads this; empty if it cannot have this name."""
    if not name or "=" in name or _OBEYED.search(name):
        return []
    is_plain = isinstance(value, str) and not _OBEYED.search(value) and not _is_json(value)
    return ["--metadata", f"{name}={value if is_plain else _json(value)}"]


def _is_json(text: str) -> bool:
    """Whether a text would be read as JSON instead of text; one that is nested too deeply to be read counts as well."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as exc:
        return isinstance(exc, RecursionError)
    return True


def _argument(given: Any) -> str:
    text = _only_text(given)
    if text is None or not _PLAIN_TEXT.fullmatch(text) or text.strip() in _WORDS_OF_JSON:
        return _json(given)
    return text


def _only_text(given: Any) -> str | None:
    """The text of an input that is one human message and nothing else."""
    messages = given.get("messages") if isinstance(given, Mapping) and [*given] == ["messages"] else None
    if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], Mapping):
        return None
    one = messages[0]
    is_human = one.get("role") == "user" or one.get("type") == "human"
    has_more = bool(one.keys() - {"role", "type", "content"})
    content = one.get("content")
    return content if is_human and not has_more and isinstance(content, str) else None


def _json(value: Any) -> str:
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
