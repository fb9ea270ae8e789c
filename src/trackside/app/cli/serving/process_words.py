"""What a server or worker says about itself: lines for a person at a terminal, otherwise JSON for a program."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from trackside._version import __version__
from trackside.app.cli.formatting import one_line
from trackside.app.cli.views.output import JsonOutput, OutputConsole, standard_error
from trackside.app.settings import Settings
from trackside.app.wiring import App
from trackside.app.wiring.agents import FORGETS, forgets
from trackside.app.wiring.projects import missing_packages
from trackside.app.wiring.spooling import ends_elsewhere, unwritable_spool
from trackside.harness.types import JsonObject

_REQUEST: Final = "request"


def notes_of(settings: Settings, agents: Mapping[str, Any]) -> Iterator[str]:
    """What one should know about the settings and agents when starting a server or worker, one sentence each."""
    yield from settings.notes
    yield from missing_packages(settings)
    yield from unwritable_spool(settings)
    yield from ends_elsewhere(settings)
    yield from (f"agents.{name}: {FORGETS}" for name, agent in agents.items() if forgets(agent))


def say_notes(settings: Settings, agents: Mapping[str, Any]) -> None:
    """Say these notes when neither is being started."""
    for note in notes_of(settings, agents):
        standard_error().print(f"warning: {one_line(note)}", soft_wrap=True)


class ProcessWords:
    """Says what happens, while its `with` block lasts.

    Args:
        output: gets one line when the process is ready; None if nobody waits for that.
        settings: the settings of the process.
    """

    def __init__(self, output: JsonOutput | None, settings: Settings) -> None:
        from trackside.app.server.log import ServerLog

        self._output = output
        self.settings = settings
        self._console: OutputConsole | None = standard_error() if sys.stderr.isatty() else None
        self._log = ServerLog(sys.stderr)
        self._stack = ExitStack()
        self.note: Callable[[Mapping[str, Any]], None] | None = self._note if settings.server.log else None
        """Called with what there is to say about a request; None if nothing should be said."""

    def __enter__(self) -> Self:
        self._stack.enter_context(self._log)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def say(self, event: str, *, level: str = "info", **facts: Any) -> None:
        """Say what happens. Safe in a signal handler."""
        self._log.say(event, facts, level=level)

    def show_ready(self, facts: JsonObject, lines: Sequence[str]) -> None:
        """Say that the process is ready: `facts` to programs, these lines to a person at the terminal."""
        if self._console is None:
            self.say("ready", **facts)
        else:
            for line in lines:
                self._console.print(one_line(line) if line[0] != " " else line, soft_wrap=True)
        if self._output is not None:
            self._output.print({**facts, "pid": os.getpid(), "version": __version__})

    def say_spooled(self, app: App) -> None:
        """Say what was delivered at the start that earlier processes had left, if anything."""
        earlier = app.recorder.delivered_at_start
        if earlier.delivered or earlier.refused:
            self.say("delivered what the spool had kept", runs=earlier.delivered, refused=earlier.refused)

    def _note(self, facts: Mapping[str, Any]) -> None:
        self._log.say(_REQUEST, facts)
