"""Event loops of commands. Ctrl-C interrupts them silently, leaving no loop half-made and nothing in it half-done."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, Self

from trackside.app.cli.noticing import saying_waits
from trackside.app.cli.stopping import stop_signals


def run[**P, T](main: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the coroutine that `main` returns for these arguments, as `asyncio.run` does, for commands.

    `main` is called here because a coroutine that was made earlier might never be awaited if Ctrl-C comes in between.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, at any moment.
    """
    with saying_waits(), CommandRunner() as runner:
        return runner.run(main(*args, **kwargs))


class CommandRunner:
    """An `asyncio.Runner` for commands; a context manager, in the main thread.

    An interrupt is not raised between just any two steps of a loop, where it would leave a task that nobody ends, or a
    future that is set twice. The first interrupt cancels what is being run, once the loop gets to it; while the loop is
    being made or closed, it takes effect after that. The second one does not wait.

    Args:
        factory: makes the loop.
        close: closes the loop, instead of `asyncio.Runner.close`.
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
        # Signals that something else handles, as a server does, or ignores are left alone.
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
        """The loop, which is not running yet."""
        return self._runner.get_loop()

    def run[T](self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, even if too late to cancel anything, because more work may follow.
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
