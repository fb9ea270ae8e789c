"""Calls into code that is not ours, held to a time limit whatever that code does.

A call runs in a task of its own that starts at once (`eager_start`), so a call that never waits costs no trip through
the event loop, and one that does can be left behind: `asyncio.wait_for` waits for ever on a callee that swallows
cancellation, which is not done here (I15).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from trackside.harness.errors import ObserverCancelledError, ObserverExitError, ObserverTimeoutError


@dataclass(frozen=True, slots=True)
class Raised:
    """What a call raised instead of returning."""

    exception: BaseException


_held_off: WeakKeyDictionary[asyncio.Task[Any], tuple[Any, ...]] = WeakKeyDictionary()  # what their cancels said
_in_line: set[asyncio.Task[Any]] = set()  # calls that somebody waits for to the end
_waiting: dict[asyncio.Task[Any], asyncio.Future[None]] = {}  # those that wait to the end, and what ends that
_abandoned: set[asyncio.Task[Any]] = set()  # left behind but running: referenced, so that they can still end


def start_contained[T](
    call: Coroutine[Any, Any, T], *, name: str, context: Context | None = None, in_line: bool = False
) -> asyncio.Task[T | Raised]:
    """Start a call in a task that never raises, not even `SystemExit`, which would stop the event loop (I18).

    Only a cancel of the task itself ends it as cancelled. `in_line`: somebody waits for it to the end (`call_in_line`).
    """
    loop = asyncio.get_running_loop()
    return asyncio.Task(_contain(call, in_line=in_line), loop=loop, name=name, context=context, eager_start=True)


async def _contain[T](call: Coroutine[Any, Any, T], *, in_line: bool) -> T | Raised:
    if in_line and (task := asyncio.current_task()) is not None:
        _in_line.add(task)  # in its first step, which is over before anybody else has the task
    try:
        return await call
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return Raised(exc)
    except BaseException as exc:  # noqa: BLE001  # a callee's SystemExit is the callee's failure; the caller of the call decides
        return Raised(exc)


async def call_observer(
    call: Coroutine[Any, Any, None],
    *,
    observer: str,
    limit: float | None,
    context: Context | None = None,
    to_the_end: bool = False,
) -> None:
    """Await an observer's call for at most `limit` seconds (None: as long as it takes).

    A cancel of the caller gives the call up at once or, with `to_the_end`, is held off until the call is over.

    Raises:
        ObserverTimeoutError: it took longer; the call was cancelled and is no longer waited for.
        ObserverCancelledError: it raised `CancelledError` of its own accord (I16).
        ObserverExitError: it raised `GeneratorExit` of its own accord.
        BaseException: what the observer raised.
    """
    task = start_contained(call, name=observer, context=context, in_line=to_the_end)
    try:
        if not task.done():
            await _wait(task, limit, to_the_end=to_the_end)
    except asyncio.CancelledError:
        leave_behind(task)
        raise
    finally:
        _in_line.discard(task)
    if not task.done():
        leave_behind(task)
        raise ObserverTimeoutError(observer=observer, seconds=limit)
    if task.cancelled():  # somebody reached for the task itself, as a closing event loop does
        raise asyncio.CancelledError
    outcome = task.result()
    if isinstance(outcome, Raised):
        if isinstance(outcome.exception, asyncio.CancelledError):
            raise ObserverCancelledError(observer=observer) from outcome.exception
        if isinstance(outcome.exception, GeneratorExit):  # further up it would mean that the caller is being closed
            raise ObserverExitError(observer=observer, cause=outcome.exception) from outcome.exception
        try:
            raise outcome.exception
        finally:
            del task, outcome  # its traceback refers to this frame: a cycle that only the garbage collector would find


def call_in_line() -> asyncio.Task[Any] | None:
    """The calling task, if it is an observer's call that somebody waits for to the end; not one that was started in it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        return None
    return task if task in _in_line else None


def is_in_line(call: asyncio.Task[Any] | None) -> bool:
    """Whether somebody still waits for this call to the end."""
    return call in _in_line


async def within[T](limit: float | None, call: Coroutine[Any, Any, T], *, name: str) -> T:
    """Await a call for at most `limit` seconds (None: as long as it takes). A cancel of the caller gives the call up.

    Raises:
        TimeoutError: it took longer; the call was cancelled and is no longer waited for.
        BaseException: what the call raised.
    """
    task = start_contained(call, name=name)
    try:
        await _wait(task, limit, to_the_end=False)
    except asyncio.CancelledError:
        leave_behind(task)
        raise
    if not task.done():
        leave_behind(task)
        raise TimeoutError(f"it took longer than {limit:g} s, and was left behind")
    outcome = task.result()
    if not isinstance(outcome, Raised):
        return outcome
    try:
        raise outcome.exception
    finally:
        del task, outcome  # as above


async def settled[F: asyncio.Future[Any]](future: F, limit: float | None = None) -> F:
    """Wait until something is done, or for `limit` seconds, even if the caller is cancelled; `cancelling()` tells that.

    Raises:
        Exception: what `give_up_waiting` was called with.
    """
    if not future.done():
        await _wait(future, limit, to_the_end=True)
    return future


def give_up_waiting(task: asyncio.Task[Any], failure: Exception) -> None:
    """Make a task that waits for something to the end stop waiting: `failure` is raised there."""
    over = _waiting.get(task)
    if over is not None and not over.done():
        over.set_exception(failure)


async def outlived[T](future: asyncio.Future[T]) -> T:
    """Await something that goes on if the caller is cancelled, and whose failure then concerns nobody here.

    As `asyncio.shield`, which from Python 3.14 on makes the event loop report that failure, with a traceback.

    Raises:
        BaseException: what it raised.
    """
    try:
        await _wait(future, None, to_the_end=False)
    except asyncio.CancelledError:
        future.add_done_callback(_pass_over)
        raise
    return future.result()


async def _wait(future: asyncio.Future[Any], limit: float | None, *, to_the_end: bool) -> None:
    """Wait until something is done or the limit is up. What `asyncio.wait` does for many, at half the price."""
    loop = asyncio.get_running_loop()
    until = None if limit is None else loop.time() + limit
    task = asyncio.current_task() if to_the_end else None
    while not future.done() and (until is None or loop.time() < until):
        over: asyncio.Future[None] = loop.create_future()
        wake = partial(_wake, over)
        future.add_done_callback(wake)
        timer = None if until is None else loop.call_at(until, wake, future)
        if task is not None:
            _waiting[task] = over
        try:
            await over
        except asyncio.CancelledError as exc:
            if not to_the_end:
                raise
            # I17: what was begun is finished first; then the caller looks at `cancelling()` and acts on the cancel.
            if task is not None:
                _held_off[task] = exc.args
        finally:
            if task is not None:
                del _waiting[task]
            future.remove_done_callback(wake)
            if timer is not None:
                timer.cancel()


def let_drop(task: asyncio.Task[Any]) -> None:
    """Keep asyncio silent if a task is garbage-collected while it waits: it has nothing to do any more."""
    setattr(task, "_log_destroy_pending", False)  # noqa: B010  # as asyncio does with what it drops itself


def cancel_held_off() -> asyncio.CancelledError:
    """The cancel of the current task that was held off last, to be raised now: its sender knows it by what it says, as
    the cancel scopes of anyio do.
    """
    task = asyncio.current_task()
    return asyncio.CancelledError(*(() if task is None else _held_off.pop(task, ())))


def _wake(over: asyncio.Future[None], _: asyncio.Future[Any]) -> None:
    if not over.done():
        over.set_result(None)


def _pass_over(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # retrieved now, so that asyncio does not say that it never was


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Cancel a task and stop waiting for it; whatever it still does or raises concerns nobody."""
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_abandoned.discard)


def left_behind() -> int:
    """How many calls were left behind and are still running, in this process."""
    return len(_abandoned)
