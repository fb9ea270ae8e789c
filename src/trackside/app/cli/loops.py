"""Event loops of commands, which Ctrl-C breaks off without a word: none is left half made, and nothing in one half done."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, Self

from trackside.app.cli.noticing import saying_waits
from trackside.app.cli.stopping import stop_signals


def run[**P, T](main: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.run` of what this function gives for these arguments, for commands.

    It is called here: a coroutine that exists before might be one that nobody awaits, as Ctrl-C may come between two calls.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, whenever that was.
    """
    with saying_waits(), CommandRunner() as runner:
        return runner.run(main(*args, **kwargs))


class CommandRunner:
    """`asyncio.Runner`, for commands; a context manager, in the main thread.

    What interrupts there is not raised between any two steps of a loop, where it would leave a task that nobody ends or a
    future that is set twice: the first time it cancels what is run, when the loop comes to that; while nothing is run, as
    the loop is made or closed, it is taken after that. The second time does not wait.

    Args:
        factory: makes the loop.
        close: closes it, in place of `asyncio.Runner.close`.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        *,
        close: Callable[[asyncio.Runner], None] = asyncio.Runner.close,
    ) -> None:
        self._runner = asyncio.Runner(loop_factory=factory)
        self._close = close
        self._task: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._taken: list[signal.Signals] = []

    def __enter__(self) -> Self:
        # Those that somebody else takes, as a server does, or ignores are theirs.
        self._taken = [number for number in stop_signals() if signal.getsignal(number) is signal.default_int_handler]
        for number in self._taken:
            signal.signal(number, self._on_interrupt)
        try:
            self._runner.get_loop()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._close(self._runner)
        finally:
            self._give_back()
        if exc is None:
            self._raise_if_interrupted()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which does not run yet."""
        return self._runner.get_loop()

    def run[T](self, main: Coroutine[Any, Any, T]) -> T:
        """Run this to its end.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, also where that came too late to cancel it, as more may be to follow.
        """
        loop = self.get_loop()
        self._task = task = loop.create_task(main)
        try:
            if self._interrupted:
                task.cancel()
            result = loop.run_until_complete(task)
        except asyncio.CancelledError:
            self._raise_if_interrupted()
            raise
        finally:
            self._task = None
        self._raise_if_interrupted()
        return result

    def _give_back(self) -> None:
        for number in self._taken:
            signal.signal(number, signal.default_int_handler)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._task is not None:
            self.get_loop().call_soon_threadsafe(self._task.cancel)

    def _raise_if_interrupted(self) -> None:
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt
