"""Shows the progress of a slow operation on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self, override

from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from trackside.app.cli.formatting import count, duration
from trackside.app.cli.views.output import OutputConsole, standard_error

LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal; an operation that takes less prints none."""


class Progress:
    """How far a command is; a context manager.

        with Progress("Removing", "run", total=5_000, broken_off=lambda runs: f"{runs} are gone.") as progress:
            progress.reach(1_200)

    If Ctrl-C interrupts the block, it says how far the command was, and how to go on.

    Args:
        doing: what is being done, such as "Exporting".
        noun: what is counted.
        total: how many there are to do; None if nobody knows.
        broken_off: a sentence about what was done until then, and how to go on.
        clock: returns seconds, and never goes back.
    """

    def __init__(
        self,
        doing: str,
        noun: str,
        *,
        total: float | None = None,
        broken_off: Callable[[int], str],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._doing, self._noun = doing, noun
        self._broken_off = broken_off
        self._clock = clock
        self._said_at = clock()
        self._console = standard_error()
        self._counted = 0
        self._total = total
        self._bar: Bar | None = None
        if self._console.is_live:
            # With an unknown total, a bar would only move back and forth.
            shape: list[ProgressColumn | str] = (
                [SpinnerColumn("line")] if total is None else [BarColumn(24), TaskProgressColumn()]
            )
            columns = [TextColumn("{task.description}"), *shape, TextColumn("{task.fields[shown]}"), _Rate(), _Left()]
            self._bar = Bar(*columns, console=self._console, transient=True)
        self._task = None if self._bar is None else self._bar.add_task(doing, total=total, shown="", number=0)

    def __enter__(self) -> Self:
        if self._bar is not None:
            try:
                self._bar.start()
            except KeyboardInterrupt as broken_off:  # somebody may press Ctrl-C as soon as they see the bar
                self.__exit__(KeyboardInterrupt, broken_off, None)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if isinstance(exc, KeyboardInterrupt):
            self._console.print(f"Broken off: {self._broken_off(self._counted)}", soft_wrap=True)

    @property
    def console(self) -> OutputConsole:
        """Where it is shown: what is printed there stands above it."""
        return self._console

    def reach(self, done: float, *, counted: int | None = None, total: float | None = None, note: str = "") -> None:
        """Say how much is done.

        Args:
            done: how much is done, in the unit of the total.
            counted: how many things that is, if the total counts something else, such as bytes.
            total: how much there is to do, as far as that is known by now.
            note: what else there is to say about it, in a word or two.
        """
        self._counted = int(done) if counted is None else counted
        self._total = total or self._total
        shown = ", ".join(filter(None, (count(self._counted, self._noun), note)))
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self._total, shown=shown, number=self._counted)
        elif self._clock() - self._said_at >= LINE_EVERY:
            self._said_at = self._clock()
            share = f" ({done / self._total:.0%})" if self._total else ""
            self._console.print(f"{self._doing}: {shown} so far{share}", soft_wrap=True)


class _Rate(ProgressColumn):
    """How many things are done per second."""

    @override
    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        number: int = task.fields["number"]
        return Text(f"{number / elapsed:,.0f}/s" if elapsed >= 0.5 and number else "", "dim")


class _Left(ProgressColumn):
    """How long it will still take at this rate."""

    @override
    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if not left else f"{duration(left)} left", "dim")
