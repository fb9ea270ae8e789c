"""Has LangGraph's clients that have no address, `get_client()`, ask the server of their own process.

The SDK lists the transports of such clients, for LangGraph's server to say which app they are for. What is on that list is
answered here, for the app whose run or request the calling code belongs to. Nothing imports the SDK: who makes clients has.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, override

from trackside.app.wiring.errors import AddressNeededError
from trackside.harness import RunManager, current_run

if TYPE_CHECKING:
    import httpx
    from starlette.applications import Starlette

    from trackside.app.server.within import Within

_MODULES: Final = ("langgraph_sdk._shared.utilities", "langgraph_sdk._async.client")
_TRANSPORTS: Final = "_registered_transports"
_WAITS: Final = "__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT"

_open: list[Loopback] = []
_taken_over = ExitStack()


class Loopback:
    """What clients without an address have of an app with this manager, while it is open."""

    def __init__(self, manager: RunManager) -> None:
        self.manager = manager
        self._app: Starlette | None = None
        self._within: Within | None = None
        self._loop = asyncio.get_running_loop()

    def serve(self, app: Starlette) -> None:
        """Have the server answer from now on."""
        self._app = app

    @property
    def within(self) -> Within | None:
        """Its server, for who has such a client, and so what that takes; None: there is none, as on a worker."""
        if self._within is None and self._app is not None:
            from trackside.app.server.within import Within

            self._within = Within(self._app, self._loop)
        return self._within

    async def aclose(self) -> None:
        """Cut off what is being answered."""
        if self._within is not None:
            await self._within.aclose()


@asynccontextmanager
async def answering_clients(manager: RunManager) -> AsyncGenerator[Loopback]:
    """Answer clients without an address that were made already, or are made meanwhile."""
    one = Loopback(manager)
    _open.append(one)
    _take_over()
    try:
        yield one
    finally:
        _open.remove(one)
        if not _open:
            _taken_over.close()
        await one.aclose()


async def _answer(request: httpx.Request) -> httpx.Response:
    """What the transport of such a client does."""
    from trackside.app.server.principal import ANYBODY, asking

    run, asked = current_run(), asking.get()
    for one in _open:
        within = one.within
        if run is not None and one.manager.has(run.run_id):
            if within is None:
                raise AddressNeededError(why="no server answers in this process, as in a worker of a fleet")
            return await within.answer(request, within.principal_of(run))
        if run is None and asked is not None and within is not None and asked.app is within.app and asked.principal:
            return await within.answer(request, asked.principal)
    is_somebodys = (run is not None and run.owner is not None) or (asked is not None and asked.is_somebodys)
    for one in reversed(_open):
        if not is_somebodys and one.within is not None and one.within.asks_nobody:
            return await one.within.answer(request, ANYBODY)
    raise AddressNeededError(why="asks in nobody's name, as no run and no request goes on here")


class _Transports(list[Any]):
    """In place of the SDK's list. What comes onto it is kept by its client alone, as a node may make one each time."""

    @override
    def append(self, transport: Any) -> None:
        transport.handle_async_request = _answer


def _take_over() -> None:
    """Have the SDK's clients ask here, if it was imported and they do not yet."""
    modules: list[Any] = [module for name in _MODULES if hasattr(module := sys.modules.get(name), _TRANSPORTS)]
    if len(modules) < len(_MODULES) or isinstance(before := getattr(modules[0], _TRANSPORTS), _Transports):
        return
    for module in modules:
        _taken_over.callback(setattr, module, _TRANSPORTS, before)
        setattr(module, _TRANSPORTS, _Transports(before))
    for transport in before:
        _taken_over.callback(delattr, transport, "handle_async_request")
        transport.handle_async_request = _answer
    if _WAITS not in os.environ:  # else each client would import LangGraph's own server, where that is installed
        _taken_over.callback(os.environ.pop, _WAITS, None)
        os.environ[_WAITS] = "true"
