"""Turns whatever ended a command into one line on standard error and an exit code. Nobody sees our own tracebacks."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from difflib import get_close_matches
from enum import IntEnum

from typer import TyperException

from trackside.app.cli.formatting import one_line, printable
from trackside.app.cli.streams import discard, has_no_reader
from trackside.app.cli.suggesting import suggest_at
from trackside.app.cli.views.output import OutputConsole, OutputError, standard_error
from trackside.app.cli.views.tracebacks import without_machinery
from trackside.app.settings.variables import DEBUG_VARIABLE
from trackside.app.wiring.agents import AgentImportError
from trackside.app.wiring.observer_types import ObserverImportError
from trackside.harness.errors import InvalidSpecError, TracksideError
from trackside.harness.types import RunStatus

_OUTPUT_FAILURES = frozenset({errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.EFBIG})
_STOPPED_TWICE = re.compile(r"([?!])\.$")


_NO_CHOICE = re.compile(r"'([^']*)' is not one of (.*)", re.DOTALL)
_SAID_OTHERWISE = {
    "failed": ("error", "run_failed"),
    "failure": ("error", "run_failed"),
    "crashed": ("error", "run_failed"),
    "done": ("success", "run_completed", "idle"),
    "ok": ("success", "run_completed", "idle"),
    "completed": ("success", "run_completed", "idle"),
    "finished": ("success", "run_completed", "idle"),
    "succeeded": ("success", "run_completed", "idle"),
    "waiting": ("interrupted",),
    "paused": ("interrupted",),
    "active": ("running", "busy"),
    "queued": ("pending",),
    "canceled": ("cancelled",),
    "stopped": ("cancelled",),
    "started": ("run_started",),
}
"""Words that people try instead of this program's own."""

_TYPED_AS = {
    "after": "--after",
    "agent": "--agent",
    "name": "NAME",
    "older_than": "--older-than",
    "parent_run_id": "--parent",
    "position": "--from",
    "run_id": "--run",
    "since": "--since",
    "start": "--from",
    "status": "--status",
    "thread_id": "--thread",
    "to": "--to",
    "types": "--type",
    "until": "--until",
    "width": "--by",
}
"""What arguments of the store and fields of a run are called on the command line."""


class ExitCode(IntEnum):
    """What the shell learns: `usage` if the command line is wrong, `error` if it is right and the command failed."""

    success = 0
    error = 1
    usage = 2
    interrupted = 75  # EX_TEMPFAIL in sysexits.h: not done, try again with an answer
    timeout = 124  # as in timeout(1)
    cancelled = 130  # 128 + SIGINT
    reader_gone = 141  # 128 + SIGPIPE


EXIT_CODE_OF = {
    RunStatus.success: ExitCode.success,
    RunStatus.error: ExitCode.error,
    RunStatus.timeout: ExitCode.timeout,
    RunStatus.interrupted: ExitCode.interrupted,
    RunStatus.cancelled: ExitCode.cancelled,
}


def ended(console: OutputConsole, code: ExitCode = ExitCode.success) -> ExitCode:
    """The exit code of a command that has written all its output to this console.

    Raises:
        OutputError: the output could not be written.
    """
    console.check()
    return ExitCode.reader_gone if console.reader_gone else code


def report(failure: BaseException) -> ExitCode:
    """Say what ended the command, in one line if possible."""
    match failure:
        case SystemExit() if failure.code in {None, 0}:  # how completion ends after printing its suggestions
            return ExitCode.success
        case BrokenPipeError() | SystemExit() if _is_reader_gone(failure):
            discard(sys.stdout)
            return ExitCode.reader_gone
        case OSError() if failure.filename is None and failure.errno in _OUTPUT_FAILURES:
            discard(sys.stdout)  # writing at exit must not fail again
            return report(OutputError(why=failure.strerror))
        case TyperException():
            return _misuse(failure)
        case AgentImportError() | ObserverImportError():
            if failure.__cause__ is not None:
                trace = "".join(traceback.format_exception(failure.__cause__))
                print(printable(without_machinery(trace)), end="", file=sys.stderr)
            _say(str(failure), code=failure.code)
            return ExitCode.usage
        case TracksideError():
            if (typed := _of_an_option(failure)) is not None:
                _say(typed)
            else:
                _say(suggest_at(failure.__dict__.get("asked_at", ""), str(failure)), code=failure.code)
            return ExitCode.error if failure.fault in {"store", "observer"} else ExitCode.usage
        case _:
            return _bug(failure)


def _is_reader_gone(failure: BaseException) -> bool:
    """Whether the broken pipe is one that this program writes to, rather than another one, such as an agent's."""
    if isinstance(failure, SystemExit):  # from Rich, which prints the help and has redirected the output
        return isinstance(failure.__context__, BrokenPipeError)
    return has_no_reader(sys.stdout) or has_no_reader(sys.stderr)


def _of_an_option(failure: TracksideError) -> str | None:
    """What a store, a manager or a server refuses, under the name that was typed for it.

    None if the failure is about something else.
    """
    from trackside.app.storage.errors import InvalidQueryError, InvalidSubscriptionError

    field, why = failure.details.get("unfit") or ("", "")  # the form that a server uses
    if isinstance(failure, InvalidQueryError | InvalidSubscriptionError | InvalidSpecError):
        field, why = failure.details.get("field", ""), failure.details.get("why", "")
    name = _TYPED_AS.get(field)
    return None if name is None else f"{name}: {why}."


def _misuse(failure: TyperException) -> ExitCode:
    if message := failure.format_message():  # empty without arguments: the help has been shown and says it all
        context = getattr(failure, "ctx", None)
        hint = "" if context is None else f" (see `{context.command_path} --help`)"
        _say(f"{message.replace('Value error, ', '').rstrip('.')}{_meant_in(message)}{hint}")
    return ExitCode(failure.exit_code)


def _meant_in(message: str) -> str:
    """A guess at what a word that is not one of the choices was meant to be, if there is one."""
    if (found := _NO_CHOICE.search(message)) is None:
        return ""
    typed, choices = found[1].casefold(), re.findall(r"'([^']+)'", found[2])
    meant = [word for word in _SAID_OTHERWISE.get(typed, ()) if word in choices]
    meant = meant or [*get_close_matches(typed, choices, n=1)]
    meant = meant or [word for word in choices if typed and typed in word.split("_")]
    return f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def _say(text: str, *, code: str = "") -> None:
    console = standard_error()
    console.print("error:", style="bold red", end=" ")
    console.print(_STOPPED_TWICE.sub(r"\1", one_line(text)), soft_wrap=True, end="")
    console.print(f" [{code}]" if code else "", style="dim")


def _bug(failure: BaseException) -> ExitCode:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(failure)
    kind = type(failure).__name__
    _say(f"this is a bug in Trackside ({kind}: {failure}); {DEBUG_VARIABLE}=1 shows where, please report it")
    return ExitCode.error
