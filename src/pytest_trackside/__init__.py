"""The pytest plugin of `trackside.testing`: readable assertions, and async fixtures for the conformance kit.

It is a package of its own because pytest imports it in every run, even where nobody uses Trackside. A module of
`trackside` would first import the whole harness, and would do so before anybody measures its coverage.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest

if "trackside.testing" not in sys.modules:  # another plugin was first; pytest would only warn
    pytest.register_assert_rewrite("trackside.testing")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Leave the async fixture of a contract to the contract, which opens it on the event loop of its tests."""
    if fixturedef.scope != "function" or not _is_async(fixturedef.func):
        return (yield)
    if fixturedef.argname != getattr(request.cls, "contract_fixture", None):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        # Before pytest-asyncio or anyio look at it, whatever their mode: they would open it on another loop.
        patch.setattr(fixturedef, "func", _unopened(fixturedef.func, request.instance))
        return (yield)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _unopened(function: Callable[..., Any], instance: object) -> Callable[..., Any]:
    """A function that returns an async context manager around what the async fixture makes."""
    if inspect.ismethod(function):  # bound to the instance with which the tests were collected
        function = function.__func__.__get__(instance)
    return asynccontextmanager(function if inspect.isasyncgenfunction(function) else _yielding(function))


def _yielding(function: Callable[..., Awaitable[Any]]) -> Callable[..., AsyncGenerator[Any]]:
    async def fixture(**arguments: Any) -> AsyncGenerator[Any]:
        yield await function(**arguments)

    return fixture
