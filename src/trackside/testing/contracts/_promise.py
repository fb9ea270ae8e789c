"""How a promise of a contract becomes a test: a plain function for pytest that runs on an event loop of its own."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import pytest

from trackside.testing.contracts._patience import Patience, words_of
from trackside.testing.contracts._rules import RULES
from trackside.testing.loop import VirtualTimeLoop

type Story[C: Contract] = Callable[..., Coroutine[Any, Any, None]]


class Contract:
    """What the contracts have in common: claims, the loop that a test runs on, and how long it may take.

    Claims are class attributes. Tests of a claim that is not made are skipped with a reason; a claim that is made is
    tested.
    """

    contract_fixture: ClassVar[str]
    """The one fixture that a subclass defines; it may be async."""

    virtual_time: ClassVar[bool] = False
    """Whether the implementation works in this process alone, so that waiting need not take time."""

    patience: ClassVar[float] = 30.0
    """How many seconds each may take: opening the fixture of a test, the test itself, and closing the fixture. What
    takes longer counts as hanging.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "contract_fixture" in vars(cls) or not hasattr(cls, "contract_fixture"):
            return  # a contract of the kit, or a part of one: it says which claims there are
        for name, value in vars(cls).items():
            # A misspelt claim would be one that nobody tests.
            if isinstance(value, bool) and not any(name in vars(base) for base in cls.__mro__[1:]):
                known = ", ".join(sorted(_claims_of(cls)))
                raise TypeError(f"{cls.__name__}.{name} is no claim of this contract; its claims are {known}")

    def check_fixture(self, given: Any) -> None:
        """Say what the fixture has to return, if it returned something else."""


def _claims_of(cls: type[Contract]) -> set[str]:
    return {name for base in cls.__mro__[1:] for name, value in vars(base).items() if isinstance(value, bool)}


def promise[C: Contract](rule: str, *, claim: str | None = None) -> Callable[[Story[C]], Callable[..., None]]:
    """Make a test of a story about the contract's fixture.

    Args:
        rule: which of `RULES` is broken if the story fails.
        claim: what the class has to claim; without it the test is skipped.
    """
    text = f"{rule} is broken: {RULES[rule]}"

    def bind(story: Story[C]) -> Callable[..., None]:
        @functools.wraps(story)
        def test(self: C, **arguments: Any) -> None:
            __tracebackhide__ = True
            if claim is not None and not getattr(self, claim):
                pytest.skip(f"{type(self).__name__} does not claim {claim}")
            loop_factory = VirtualTimeLoop if self.virtual_time else asyncio.new_event_loop
            patience = Patience(self.patience)
            try:
                patience.run(_told(self, patience, story, arguments), loop_factory)
            except AssertionError as exc:
                exc.args = (f"{text}. Seen: {exc}",)
                raise
            except (Exception, asyncio.CancelledError, SystemExit, pytest.fail.Exception) as exc:
                __tracebackhide__ = False
                raise AssertionError(f"{text}. Seen: {words_of(exc)}") from exc

        assert inspect.iscoroutinefunction(story), f"{story} is a promise and has to be async"
        return test

    return bind


async def _told(contract: Contract, patience: Patience, story: Story[Any], arguments: dict[str, Any]) -> None:
    given = arguments.pop(contract.contract_fixture)
    async with patience.around(opened(given)) as fixture:
        contract.check_fixture(fixture)
        async with patience.limit("it did not end"):
            await story(contract, **{contract.contract_fixture: fixture}, **arguments)


@asynccontextmanager
async def opened(given: Any) -> AsyncGenerator[Any]:
    """What was given; entered, if it is an async context manager, until that gives nothing new to enter."""
    async with AsyncExitStack() as stack:
        while isinstance(given, AbstractAsyncContextManager):
            entered = await stack.enter_async_context(given)
            if entered is given:
                break
            given = entered
        yield given
