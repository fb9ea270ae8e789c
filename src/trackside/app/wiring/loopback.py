"""Has LangGraph's clients that have no address, `get_client()`, ask the server of their own process.

The SDK lists the transports of such clients, for LangGraph's server to say which app they are for. Transports on that
list are answered here, for the app whose run or request the calling code belongs to. Nothing here imports the SDK:
whoever makes clients has done that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, override

from trackside.app.wiring.errors import AddressNeededError
from trackside.harness import RunContext, RunManager, current_run
from trackside.harness.running.lineage import line_of

if TYPE_CHECKING:
    import httpx
    from starlette.applications import Starlette

    from trackside.app.server.in_process import Within

logger = logging.getLogger("trackside.server")

_MODULES: Final = ("langgraph_sdk._shared.utilities", "langgraph_sdk._async.client")
_TRANSPORTS: Final = "_registered_transports"
_WAITS: Final = "__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT"

_open: list[Loopback] = []
_taken_over = ExitStack()


class Loopback:
    """An app with this manager as clients without an address see it, while it is open.

    Args:
        manager: the manager.
        serves: whether its server may begin to answer later.
    """

    def __init__(self, manager: RunManager, *, serves: bool) -> None:
        self.manager = manager
        self._app: Starlette | None = None
        self._within: Within | None = None
        self._loop = asyncio.get_running_loop()
        self._decided = asyncio.Event() if serves else None
        """Set as soon as the server answers, or never will."""

    def serve(self, app: Starlette) -> None:
        """Have the server answer from now on."""
        self._app = app
        if self._decided is not None:
            self._decided.set()

    @property
    def within(self) -> Within | None:
        """Its server, for code that has such a client, and so what that needs; None: there is none, as on a worker."""
        if self._within is None and self._app is not None:
            from trackside.app.server.in_process import Within

            self._within = Within(self._app, self._loop)
        return self._within

    async def server_for(self, run: RunContext) -> Within:
        """Its server, for a run of its manager.

        A run that was taken over, or that such a run has started, waits until the server answers: runs are taken over
        before it does, and whoever let them in was a server, too.

        Raises:
            AddressNeededError: there is none, or it has ended before it answered anything.
        """
        why = "no server answers in this process, as in a worker of a fleet"
        taken_over = (self.manager.has_taken_over(each.run_id) for each in line_of(run))
        if self._app is None and self._decided is not None and any(taken_over):
            logger.info("run %s asks the server of this process, and waits until it answers", run.run_id)
            # The code of the run may be on another event loop.
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._decided.wait(), self._loop))
            why = "the server of this process has ended before it answered anything"
        if (within := self.within) is None:
            raise AddressNeededError(why=why)
        return within

    async def aclose(self) -> None:
        """Cut off what is being answered, and let nobody wait any more."""
        if self._decided is not None:
            self._decided.set()
        if self._within is not None:
            await self._within.aclose()


@asynccontextmanager
async def answering_clients(manager: RunManager, *, serves: bool) -> AsyncGenerator[Loopback]:
    """Answer clients without an address that were made already, or are made meanwhile.

    Enter it when all of the user's code, any of which may import the SDK, is imported, and before the manager is
    entered: the manager takes runs over, which may ask at once.
    """
    one = Loopback(manager, serves=serves)
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
    if run is not None and (found := _of_an_app(run)) is not None:
        one, own = found
        server = await one.server_for(own)
        # What is known of the owner is with the run of the app.
        return await server.answer(request, server.principal_of(own if own.owner == run.owner else run))
    for one in _open:
        within = one.within
        if run is None and asked is not None and within is not None and asked.app is within.app and asked.principal:
            return await within.answer(request, asked.principal)
    is_somebodys = (run is not None and run.owner is not None) or (asked is not None and asked.is_somebodys)
    for one in reversed(_open):
        if not is_somebodys and one.within is not None and one.within.asks_nobody:
            return await one.within.answer(request, ANYBODY)
    raise AddressNeededError(why="asks in nobody's name, because no run of a server and no request goes on here")


def _of_an_app(run: RunContext) -> tuple[Loopback, RunContext] | None:
    """The app of a run, with that run, or with the next one above it that an app has: an agent may call others in place."""
    return next(((one, each) for each in line_of(run) for one in _open if one.manager.has(each.run_id)), None)


class _Transports(list[Any]):
    """Replaces the SDK's list. A transport put on it is kept by its client only, as a node may make one each time."""

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
