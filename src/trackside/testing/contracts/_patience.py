"""How long a test of a contract may take: until its fixture is open, for its story, and until its fixture is closed.

A step that is late is cancelled, and the failure says where it was. Broken code may swallow the cancel, so nothing here
waits for it: its task is then left behind, and the next test has a loop of its own.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import pytest

from trackside.testing.loop import DeadlockError, HorizonError, waiting_on

_LONGEST_FAREWELL: Final = 5.0
_PARTS: Final = 100
"""The parts of a farewell. One part comes after another, each in a turn of the loop of its own: if the machine stands
still, that counts as one of them, and what was cancelled has the others to end.
"""

_SWALLOWS: Final = "as if something swallowed CancelledError instead of ending with it"


class Patience:
    """The limit of each step of a test, and what becomes of a step that is late."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._farewell = min(seconds, _LONGEST_FAREWELL)
        self._hangs: str | None = None

    def run(self, test: Coroutine[Any, Any, None], loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        """Run a test, whose steps are limited, on a loop of its own.

        Raises:
            AssertionError: it did not end, or left something behind that does not.
        """
        runner = asyncio.Runner(loop_factory=loop_factory)
        try:
            runner.run(test)
        except BaseException as exc:
            left = self._let_go(runner)
            if self._hangs is not None:
                raise AssertionError(self._hangs) from None
            if left:
                exc.add_note(left)
            raise
        if left := self._let_go(runner):
            raise AssertionError(left)

    @asynccontextmanager
    async def around(self, fixture: AbstractAsyncContextManager[Any]) -> AsyncGenerator[Any]:
        """Open a fixture in time, and close it in time."""

        async def close(*failure: Any) -> bool | None:
            if isinstance(failure[1], GeneratorExit):
                return None  # this was left behind, and no loop is there any more
            before = "" if failure[1] is None else f"{words_of(failure[1])}; and then "
            async with self.limit(f"{before}its fixture was not closed"):
                return await fixture.__aexit__(*failure)

        async with AsyncExitStack() as stack:
            async with self.limit("its fixture was not opened"):
                opened = await fixture.__aenter__()
            stack.push_async_exit(close)
            yield opened

    @asynccontextmanager
    async def limit(self, undone: str) -> AsyncGenerator[None]:
        """Let a step end in time, or else cancel it; `undone` says in words what it did not do."""
        loop = asyncio.get_running_loop()
        limit, part = asyncio.timeout(None), self._farewell / _PARTS
        late = ""

        def is_late() -> None:
            nonlocal late
            late = f"{undone} within {self._seconds:g} s"
            timers.append(loop.call_later(part, give_up_after, _PARTS - 1, late))
            late += f"; if it only needs longer, set `patience`. Waiting were: {waiting_on(loop)}"
            limit.reschedule(loop.time())

        def give_up_after(parts: int, said: str) -> None:
            if parts:
                timers[:] = [loop.call_later(part, give_up_after, parts - 1, said)]
            else:
                self._give_up(said, loop)

        timers: list[asyncio.Handle] = [loop.call_later(self._seconds, is_late)]
        try:
            async with limit:
                yield
        except (Exception, SystemExit, pytest.fail.Exception) as exc:
            if not late:
                raise
            if not (isinstance(exc, TimeoutError) and limit.expired()):  # it turned its cancel into something else
                raise AssertionError(f"{late}. Cancelled, it ended with {words_of(exc)}") from exc
        finally:
            for timer in timers:
                timer.cancel()
        if late:  # also for a step that swallowed its cancel and ended all the same
            raise AssertionError(late) from None

    def _give_up(self, late: str, loop: asyncio.AbstractEventLoop) -> None:
        if self._hangs is None:
            after = f"nor in {self._farewell:g} s after it was cancelled, {_SWALLOWS}"
            self._hangs = f"{late}, {after}. Waiting are: {waiting_on(loop)}"
            loop.stop()

    def _let_go(self, runner: asyncio.Runner) -> str:
        """Cancel what still runs, end what else the loop has, and close it; say what was late, or goes on."""
        loop, late = runner.get_loop(), ""
        with suppress(DeadlockError, HorizonError):
            runner.run(self._end_all())
        if not asyncio.all_tasks(loop):
            try:
                late = runner.run(self._end_the_rest())
            except (DeadlockError, HorizonError) as exc:
                late = words_of(exc)
        if left := asyncio.all_tasks(loop):
            # These tasks are kept: Python would complain of a forgotten one in the middle of another test.
            atexit.register(len, left)
            goes_on = f"something went on, {_SWALLOWS}. Waiting are: {waiting_on(loop)}"
            late = late or f"when all was over and cancelled, {goes_on}"
        loop.close()  # not the runner, which would wait once more, without a limit
        return late

    async def _end_the_rest(self) -> str:
        """End async generators and threads, as `asyncio.run` does, but in time; say which did not.

        A thread cannot be cancelled: one that goes on is waited for when Python exits.
        """
        loop = asyncio.get_running_loop()
        late = ""
        for what, end in (("async generators", loop.shutdown_asyncgens), ("threads", loop.shutdown_default_executor)):
            ending = asyncio.create_task(end())
            await asyncio.wait([ending], timeout=self._seconds)
            if not ending.done():
                late = f"when all was over, its {what} did not end within {self._seconds:g} s. Waiting were: "
                late += waiting_on(loop)
                break
            ending.result()
        await self._end_all()
        return late

    async def _end_all(self) -> None:
        """Cancel all tasks, also those that come meanwhile, and wait for them, but not for long."""
        cancelled = {asyncio.current_task()}
        own = {*cancelled}
        loop, parts, part = asyncio.get_running_loop(), _PARTS, self._farewell / _PARTS
        until = loop.time() + part
        while parts and (others := asyncio.all_tasks() - own):
            for task in others - cancelled:
                task.add_done_callback(self._tell_of)
                task.cancel()
            cancelled |= others
            await asyncio.wait(others, timeout=max(0.0, until - loop.time()), return_when=asyncio.FIRST_COMPLETED)
            if loop.time() >= until:
                parts, until = parts - 1, loop.time() + part

    def _tell_of(self, task: asyncio.Task[Any]) -> None:
        """Have the loop report what a task raised that was cancelled when all was over, as `asyncio.run` does.

        After a test that hung, which says so, this reports nothing, but retrieves the exception, as nobody else does.
        """
        if not task.cancelled() and (exc := task.exception()) is not None and self._hangs is None:
            message = "unhandled exception when all was over and cancelled"
            task.get_loop().call_exception_handler({"message": message, "exception": exc, "task": task})


def words_of(exc: BaseException) -> str:
    """What was raised, as a failure says it."""
    if isinstance(exc, AssertionError | pytest.fail.Exception):  # from `pytest.raises`, and says all in its message
        return str(exc)
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
