"""Shows one run as it happens: a row for each event, streamed text as it comes, a spinner while the agent thinks.

On a terminal, the last lines are live, and what is above them never changes again. Without a terminal (a pipe, a file,
`TERM=dumb`), each row is plain, and complete when it appears.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.spinner import Spinner

from trackside.app.cli.formatting import abridged, count, json_line, one_line, printable
from trackside.app.cli.records.protocol import Home
from trackside.app.cli.records.questions import answer_note, interrupts_of, resume_command
from trackside.app.cli.views.appearance import AGENT, CONTINUED, NOTE, OUTPUT, RUN_LOOKS, Look
from trackside.app.cli.views.live import LiveLines
from trackside.app.cli.views.messages import Messages, Piece, last_answer
from trackside.app.cli.views.output import OutputConsole
from trackside.app.cli.views.rows import EventRows, Rows
from trackside.app.wiring.agents import FORGETS
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent, RunResult
from trackside.harness.payload import canonical
from trackside.harness.ports import StreamGap, StreamPart
from trackside.harness.types import JsonObject, LifecycleEventType


class Timeline:
    """Shows one run on a console. An observer of its events; bind it after those that must not miss any.

    Use it as a context manager: the live lines exist only inside. Events and the stream arrive by different ways, so it
    shows nothing of the stream before the start of the run, and `finish` shows the end when both have ended.
    """

    def __init__(self, console: OutputConsole) -> None:
        self._console = console
        self._rows = Rows(console)
        self._events = EventRows(self._rows)
        self._messages = Messages()
        self._flow: _Written | None = None  # the message whose lines are printed as they fill
        self._waiting: dict[str, _Written] = {}  # messages that are printed once they are complete, by key
        self._early: list[StreamPart | StreamGap] = []  # what came before the first event
        self._held: list[RunLifecycleEvent] = []
        self._started: float | None = None
        self._said: list[str] = [""]  # the complete messages
        self._doing, self._hint = "starting", ""
        self._before_away: tuple[str, str] | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._live = LiveLines(console, self._live_lines) if console.is_live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Show an event; from the terminal event on, events wait for `finish`."""
        await self.on_events([event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Show several events that happened together."""
        self._come_back()
        if self._started is None:
            self._started = monotonic()
            if self._doing in {"starting", "waiting"}:
                self._doing, self._hint = "thinking", ""
        for event in events:
            if self._held or is_terminal(event.event_type):
                self._held.append(event)
            else:
                self._events.print(event)
        self._show_early()

    def part(self, part: StreamPart | StreamGap) -> None:
        """Show a piece of live output."""
        self._come_back()
        if self._started is None:
            self._early.append(part)
        else:
            self._show(part)

    def _show_early(self) -> None:
        early, self._early = self._early, []
        for part in early:
            self._show(part)

    def _show(self, part: StreamPart | StreamGap) -> None:
        if isinstance(part, StreamGap):
            missed = count(part.last - part.first + 1, "piece")
            self._rows.print(self._elapsed(), NOTE, f"{missed} of output passed too quickly to be shown", "dim")
        elif part.mode == "messages":
            if (piece := self._messages.take(part.data, part.namespace)) is not None:
                self._take(piece)
        else:
            text = part.data if isinstance(part.data, str) else json_line(part.data)
            self._rows.print(self._elapsed(), Look("·", ".", part.mode, "dim"), abridged(one_line(text)))

    def waiting(self, for_what: str) -> None:
        """Say beside the spinner what the start of the run waits for."""
        if self._doing == "starting":
            self._doing, self._hint = "waiting", for_what

    def stopping(self, doing: str, hint: str) -> None:
        """Say beside the spinner what is being done to the run."""
        self._doing, self._hint = doing, hint
        self._before_away = None

    def away(self, what: str) -> None:
        """Say beside the spinner that the run cannot be seen now, until more of it is seen."""
        if self._before_away is None:
            self._before_away = self._doing, self._hint
        self._doing, self._hint = "waiting", f"for {what}, which is away"

    def _come_back(self) -> None:
        if self._before_away is not None:
            (self._doing, self._hint), self._before_away = self._before_away, None

    def check(self) -> None:
        """Check that the output could be shown.

        Raises:
            OutputError: it could not.
        """
        self._console.check()

    def go_on(self, run_id: str) -> None:
        """Show how an attempt ended, and that the run goes on as another attempt."""
        self._show_end(None)
        self._rows.print(self._elapsed(), NOTE, f"goes on as run {run_id}", "dim")
        self._held, self._messages, self._said = [], Messages(), [""]

    def finish(self, result: RunResult, home: Home, *, forgotten: bool = False) -> None:
        """Show how the run ended, what came out, what it took, and how to go on from here.

        A question that is `forgotten` when the program ends cannot be answered any more.
        """
        self._show_end(result.output)
        if result.error is not None and all(event.payload.get("error") != result.error for event in self._held):
            self._rows.print(self._elapsed(), RUN_LOOKS[result.status], result.error, "red")  # no event could report it
        if self._live is not None:
            self._live.stop()
        self._rows.print(None, Look("", "", "run", "dim"), result.run_id)
        self._rows.print(None, Look("", "", "thread", "dim"), result.thread_id)
        self._rows.print(None, Look("", "", "recorded in", "dim"), home.shown)
        if asked := [interrupt for event in self._held for interrupt in interrupts_of(event.payload)]:
            self._show_how_to_answer(asked, None if forgotten else resume_command(result.thread_id, asked, home))

    def _show_how_to_answer(self, asked: Sequence[JsonObject], command: str | None) -> None:
        if command is None:
            self._console.print(f"\nIt cannot be answered: {FORGETS}.", soft_wrap=not self._console.is_screen)
        else:
            self._console.print(f"\n{answer_note(asked)}", soft_wrap=True)
            self._console.print(f"  {command}", style="bold", soft_wrap=True)

    def _show_end(self, output: Any) -> None:
        self._show_early()
        for message in ([self._flow] if self._flow else []) + list(self._waiting.values()):
            self._take(Piece(message.key, message.look, "", done=True))
        for event in self._held:
            if is_terminal(event.event_type):
                self._show_output(event, output)
            self._events.print(event)

    def _show_output(self, end: RunLifecycleEvent, output: Any) -> None:
        """Show the output of a complete run, unless it was seen already: the last message, or what the agent returned."""
        if end.event_type is not LifecycleEventType.RUN_COMPLETED or interrupts_of(end.payload):
            return
        answer = (end.payload.get("completion_data") or {}).get("last_ai_message") or last_answer(output)
        if answer:
            if answer.strip() not in self._said and answer.strip() not in self._said[-1]:
                self._rows.print(self._events.seconds_of(end), AGENT, answer)
        elif output is not None:
            self._rows.print(self._events.seconds_of(end), OUTPUT, abridged(json_line(canonical(output)[0])))

    def _take(self, piece: Piece) -> None:
        """Add a piece to its message. One message at a time is live; without live lines, none is."""
        message = self._flow if self._flow and self._flow.key == piece.key else self._waiting.pop(piece.key, None)
        message = message or _Written(piece.key, piece.look, self._elapsed())
        message.text += piece.text
        message.whole += piece.text
        if self._flow is None and self._live is not None:
            self._flow = message
        if message is self._flow:
            self._print_settled(message, done=piece.done)
        elif piece.done:
            self._print_lines(message, message.text.strip().split("\n"))
        else:
            self._waiting[piece.key] = message
        if piece.done:
            self._flow = None if message is self._flow else self._flow
            self._said.append(message.whole.strip())

    def _print_settled(self, message: _Written, *, done: bool) -> None:
        """Print the lines at the front of a message that will not change any more, or all of them."""
        text = message.text if message.begun else message.text.lstrip()
        if done:
            message.text = ""
            self._print_lines(message, text.rstrip().split("\n"))
            return
        look = CONTINUED if message.begun else message.look
        lines, message.text = settled_lines(text, lambda paragraph: self._rows.wrap(paragraph, look))
        self._print_lines(message, lines)

    def _print_lines(self, message: _Written, lines: list[str]) -> None:
        if not any(lines):
            return
        if message.begun:
            self._rows.print(None, CONTINUED, "\n".join(lines))
        else:
            self._rows.print(message.seconds, message.look, "\n".join(lines))
        message.begun = True

    def _live_lines(self) -> RenderableType:
        seconds = self._elapsed()
        lines: list[RenderableType] = []
        if (message := self._flow) is not None and (text := message.text.strip()):
            shown = (None, CONTINUED) if message.begun else (message.seconds, message.look)
            lines.append(self._rows.row(shown[0], shown[1], printable(text)))
        return Group(*lines, self._rows.row(seconds, self._working(), self._hint))

    def _working(self) -> Look:
        frame = self._spinner.render(monotonic())
        doing = "writing" if self._doing == "thinking" and self._flow is not None else self._doing
        return Look(str(frame), str(frame), doing, "cyan")

    def _elapsed(self) -> float:
        return 0.0 if self._started is None else monotonic() - self._started


@dataclass(slots=True)
class _Written:
    """A message, as far as it has arrived. `text` is the part of `whole` that is not printed yet."""

    key: str
    look: Look
    seconds: float
    text: str = ""
    whole: str = ""
    begun: bool = False


def settled_lines(text: str, wrap: Callable[[str], list[str]]) -> tuple[list[str], str]:
    """The leading lines of a growing text that more text cannot change, wrapped by `wrap`, and the rest.

    Both are in printable form. Blank lines at the end stay in the rest as they came: it is not known yet whether they
    separate two paragraphs, or whether a carriage return is half of a line end.
    """
    body = text.rstrip("\r\n")
    *lines, last = printable(body).split("\n")
    *wrapped, _ = wrap(last)
    # Wrapping removes and replaces spaces, so count the other characters to find out how far it got.
    told = sum(len("".join(line.split())) for line in wrapped)
    marks = (found.end() for found in re.finditer(r"\S", last))
    position = next(itertools.islice(marks, told - 1, None), 0) if told else 0
    rest = last[position:].lstrip() if wrapped else last
    return lines + wrapped, rest + text[len(body) :]
