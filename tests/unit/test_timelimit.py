"""A call into somebody else's code ends for its caller in time, whatever that code does (I15, I16, I18)."""

import asyncio
import contextlib
import functools
import gc
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from trackside.harness.errors import ObserverCancelledError, ObserverExitError, ObserverTimeoutError
from trackside.harness.foreign.timelimit import (
    Raised,
    call_observer,
    leave_behind,
    left_behind,
    outlived,
    settled,
    start_contained,
)
from trackside.testing import run_virtual


def virtual[**P](test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs a test on a loop with virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run


async def returns() -> None:
    return None


async def fails(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def fails_at_once(error: BaseException) -> None:
    raise error


class Stubborn:
    """Ignores every cancel until it is released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.cancels = 0

    async def call(self) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancels += 1


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_call_that_never_waits_costs_no_turn_of_the_loop() -> None:
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await call_observer(returns(), observer="x", limit=1)

    assert turns == []


@virtual
async def test_call_within_its_limit_ends_when_it_ends() -> None:
    await call_observer(asyncio.sleep(3), observer="x", limit=5)

    assert now() == 3


@virtual
async def test_call_without_a_limit_takes_as_long_as_it_takes() -> None:
    await call_observer(asyncio.sleep(1e5), observer="x", limit=None)

    assert now() == 1e5


@pytest.mark.parametrize("call", [fails, fails_at_once])
@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), BaseException("odd")], ids=repr
)
@virtual
async def test_what_the_observer_raises_reaches_the_caller_as_it_is(
    error: BaseException, call: Callable[[BaseException], Coroutine[Any, Any, None]]
) -> None:
    with pytest.raises(BaseException) as caught:
        await call_observer(call(error), observer="x", limit=5)
    assert caught.value is error


@pytest.mark.parametrize("call", [fails, fails_at_once])
@virtual
async def test_cancelled_error_of_the_observers_own_accord_is_its_failure(
    call: Callable[[BaseException], Coroutine[Any, Any, None]],
) -> None:
    with pytest.raises(ObserverCancelledError, match="Observer x raised CancelledError although nobody") as caught:
        await call_observer(call(asyncio.CancelledError()), observer="x", limit=5)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert caught.value.fault == "observer"


@pytest.mark.parametrize("call", [fails, fails_at_once])
@virtual
async def test_generator_exit_of_the_observer_does_not_look_like_the_end_of_the_caller(
    call: Callable[[BaseException], Coroutine[Any, Any, None]],
) -> None:
    with pytest.raises(ObserverExitError, match="Observer x tried to end the process with GeneratorExit"):
        await call_observer(call(GeneratorExit()), observer="x", limit=5)


@virtual
async def test_call_past_its_limit_is_cancelled_and_left() -> None:
    ended: list[float] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(now())

    with pytest.raises(ObserverTimeoutError, match=r"Observer x did not finish within 2\.5 s and was left behind"):
        await call_observer(slow(), observer="x", limit=2.5)
    await asyncio.sleep(1)

    assert ended == [2.5]
    assert left_behind() == 0


@virtual
async def test_call_that_swallows_cancellation_does_not_hold_its_caller() -> None:
    stubborn = Stubborn()
    with pytest.raises(ObserverTimeoutError):
        await call_observer(stubborn.call(), observer="x", limit=2)
    await asyncio.sleep(0)

    assert (now(), stubborn.cancels, left_behind()) == (2, 1, 1)
    stubborn.released.set()
    await asyncio.sleep(1)
    assert left_behind() == 0


@virtual
async def test_what_a_call_raises_after_it_was_left_concerns_nobody() -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))

    async def late() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            raise SystemExit(1) from None

    with pytest.raises(ObserverTimeoutError):
        await call_observer(late(), observer="x", limit=2)
    await asyncio.sleep(5)
    gc.collect()

    assert problems == []
    assert left_behind() == 0


@virtual
async def test_cancelling_the_caller_cancels_the_call_and_gives_it_up_at_once() -> None:
    stubborn = Stubborn()
    caller = asyncio.create_task(call_observer(stubborn.call(), observer="x", limit=60))
    await asyncio.sleep(1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(0)

    assert (now(), stubborn.cancels) == (1, 1)
    stubborn.released.set()
    await asyncio.sleep(0)


@virtual
async def test_cancelling_the_caller_is_held_off_where_the_call_has_to_end_first() -> None:
    ended: list[float] = []

    async def slow() -> None:
        await asyncio.sleep(10)
        ended.append(now())

    async def call() -> int:
        await call_observer(slow(), observer="x", limit=60, to_the_end=True)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    caller = asyncio.create_task(call())
    for _ in range(3):
        await asyncio.sleep(1)
        caller.cancel()

    assert await caller == 3  # nothing is forgotten: the caller knows how often it was cancelled
    assert ended == [10]


@virtual
async def test_limit_holds_in_spite_of_cancels_that_are_held_off() -> None:
    stubborn = Stubborn()
    caller = asyncio.create_task(call_observer(stubborn.call(), observer="x", limit=5, to_the_end=True))
    for _ in range(4):
        await asyncio.sleep(1)
        caller.cancel()
    with pytest.raises(ObserverTimeoutError):
        await caller

    assert now() == 5
    stubborn.released.set()
    await asyncio.sleep(0)


@virtual
async def test_call_that_somebody_cancels_by_its_task_is_cancelled_for_its_caller() -> None:
    caller = asyncio.create_task(call_observer(asyncio.sleep(100), observer="x", limit=None))
    await asyncio.sleep(1)
    others = asyncio.all_tasks() - {caller, asyncio.current_task()}
    for task in others:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    assert len(others) == 1


@virtual
async def test_call_runs_in_the_context_it_is_given() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="default")
    seen: list[str] = []

    async def look() -> None:
        seen.append(variable.get())
        await asyncio.sleep(1)
        seen.append(variable.get())
        variable.set("changed")

    context = copy_context()
    context.run(variable.set, "given")
    await call_observer(look(), observer="x", limit=None, context=context)
    await call_observer(look(), observer="x", limit=None)

    assert seen == ["given", "given", "default", "default"]
    assert (variable.get(), context[variable]) == ("default", "changed")


@pytest.mark.parametrize(
    "error", [ValueError(), SystemExit(), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()], ids=repr
)
@virtual
async def test_contained_task_ends_with_what_was_raised_and_raises_nothing(error: BaseException) -> None:
    for call in (fails, fails_at_once):
        task = start_contained(call(error), name="x")
        await asyncio.wait({task})
        assert task.result() == Raised(error)


@virtual
async def test_contained_task_gives_the_result_and_has_its_name() -> None:
    async def seven() -> int:
        await asyncio.sleep(1)
        return 7

    task = start_contained(seven(), name="the-name")

    assert task.get_name() == "the-name"
    assert await task == 7


@virtual
async def test_contained_task_that_is_cancelled_is_cancelled() -> None:
    task = start_contained(asyncio.sleep(10), name="x")
    task.cancel()
    await asyncio.wait({task})

    assert task.cancelled()


@virtual
async def test_settled_waits_to_the_end_however_often_it_is_cancelled() -> None:
    async def wait() -> tuple[int | Raised, int]:
        task = asyncio.current_task()
        assert task is not None
        done = await settled(work)
        return done.result(), task.cancelling()

    async def seven() -> int:
        await asyncio.sleep(5)
        return 7

    work = start_contained(seven(), name="work")
    waiter = asyncio.create_task(wait())
    for _ in range(2):
        await asyncio.sleep(1)
        waiter.cancel()

    assert await waiter == (7, 2)
    assert now() == 5


@virtual
async def test_what_outlives_its_caller_goes_on_and_its_failure_is_told_to_nobody() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))

    async def refused_later() -> None:
        await asyncio.sleep(5)
        raise RefusedError

    work = asyncio.ensure_future(refused_later())
    callers = [asyncio.create_task(outlived(work)) for _ in range(2)]
    await asyncio.sleep(1)
    assert callers[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    assert now() == 1
    with pytest.raises(RefusedError):
        await callers[1]
    assert now() == 5

    alone = asyncio.create_task(outlived(asyncio.ensure_future(refused_later())))
    await asyncio.sleep(1)
    alone.cancel()
    await asyncio.sleep(10)
    gc.collect()
    assert told == []


@virtual
async def test_what_is_over_or_cancelled_is_told_as_what_it_is() -> None:
    async def seven() -> int:
        return 7

    work = asyncio.ensure_future(seven())
    assert await outlived(work) == 7
    assert await outlived(work) == 7
    work = asyncio.ensure_future(seven())
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outlived(work)


@virtual
async def test_task_left_behind_is_held_until_it_ends() -> None:
    stubborn = Stubborn()
    task = start_contained(stubborn.call(), name="x")
    leave_behind(task)
    held = weakref.ref(task)
    del task
    await asyncio.sleep(1)
    gc.collect()
    assert held() is not None

    stubborn.released.set()
    await asyncio.sleep(1)
    gc.collect()
    assert held() is None


class RefusedError(Exception):
    """Unlike the built-in ones, it can be referred to weakly."""


@virtual
async def test_failure_that_nobody_holds_any_more_does_not_wait_for_the_garbage_collector() -> None:
    made: list[weakref.ref[RefusedError]] = []

    def failure() -> RefusedError:
        error = RefusedError()
        made.append(weakref.ref(error))
        return error

    async def fails_anew() -> None:
        raise failure()

    gc.disable()
    try:
        with contextlib.suppress(RefusedError):
            await call_observer(fails_anew(), observer="x", limit=1)
        assert [error() for error in made] == [None]
    finally:
        gc.enable()
