"""Serves an ASGI app over HTTP in the running event loop: uvicorn, without its process around it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import uvicorn

from trackside.app.server.guarded_protocol import GuardedProtocol, Outlived
from trackside.app.server.whole_writes import WholeWrites

_KEEP_ALIVE: Final = 75
"""Seconds that an idle connection stays open: longer than clients and proxies keep theirs, so that they close it. A
client that sends a request just when the server closes the connection does not know what became of the request."""
_MOST_CONNECTIONS: Final = 10_000
"""With more, clients get 503. Each takes about 10 KB, and a descriptor: `ulimit -n` may be the nearer bound."""
_LAST_WORDS: Final = 0.5  # seconds within which answers that are cut off must end
_CLOCK: Final = 1.0  # seconds; how often `Date` changes


class _Connections(set[Any]):
    """Open connections, and a way to wait until there are none."""

    def __init__(self) -> None:
        super().__init__()
        self._gone = asyncio.Event()
        self._gone.set()

    def add(self, connection: Any) -> None:
        super().add(connection)
        self._gone.clear()

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        if not self:
            self._gone.set()

    remove = discard  # the name that WebSockets call

    async def wait_gone(self) -> None:
        await self._gone.wait()


class HttpServer:
    """Answers on these sockets while its `async with` block goes on.

    Leaving the block cuts off what is still being answered; `finish` before that lets it come to its end.
    """

    def __init__(self, app: Any, sockets: Sequence[socket.socket], *, websockets: bool = False) -> None:
        self._sockets = sockets
        self._connections = _Connections()
        self._server = uvicorn.Server(
            uvicorn.Config(
                Outlived(app),
                http=GuardedProtocol,
                ws="auto" if websockets else "none",
                lifespan="off",  # whoever opens the app closes it
                log_config=None,
                log_level="error",  # nonsense that clients send is not this program's trouble
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE,
            )
        )
        self._server.server_state.connections = self._connections
        self._accepting: list[asyncio.Server] = []
        self._clock: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        config = self._server.config
        config.load()
        await self._server.on_tick(0)
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            self._accepting.append(await loop.create_server(self._protocol, sock=one.dup(), backlog=config.backlog))
        self._clock = asyncio.create_task(self._tick(), name="trackside-http-clock")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop_accepting()
        if self._clock is not None:
            self._clock.cancel()
        await self.finish(0.0)

    def stop_accepting(self) -> None:
        """Take no more connections; open ones go on, and new ones wait in the sockets for whichever process is next."""
        for one in self._accepting:
            one.close()

    async def stop_accepting_for_good(self) -> None:
        """Take the connections that wait in the sockets, close these, and answer those clients like the others."""
        self.stop_accepting()
        taken = [connection for one in self._sockets for connection in _close_behind_the_last(one)]
        await asyncio.gather(*[self._take(connection) for connection in taken])

    def close_after_answers(self) -> None:
        """Have each connection close behind the answer that is under way on it; idle ones take another request."""
        for connection in self._connections:
            cycle = getattr(connection, "cycle", None)  # a WebSocket has none, and is closed by `finish`
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False
                if cycle.response_started:  # its head did not say that the connection closes behind it
                    _end_in_one(connection.transport)

    async def finish(self, seconds: float) -> bool:
        """Close idle connections now, others after their answers, and cut off the rest; returns whether all ended."""
        state = self._server.server_state
        for connection in list(state.connections):
            connection.shutdown()
        if await self.wait_until_idle(seconds):
            return True
        for task in list(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=_LAST_WORDS)
        for connection in list(state.connections):
            connection.transport.abort()
        return False

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait until nobody is connected, at most so long; returns whether nobody is."""
        try:
            async with asyncio.timeout(seconds):
                await self._connections.wait_gone()
        except TimeoutError:
            return not self._connections
        return True

    def _protocol(self) -> GuardedProtocol:
        kind: type[GuardedProtocol] = self._server.config.http_protocol_class  # type: ignore[assignment]
        return kind(self._server.config, self._server.server_state, app_state={})

    async def _take(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # its client has gone again
            connection.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_CLOCK)
            await self._server.on_tick(0)


def _close_behind_the_last(listening: socket.socket) -> list[socket.socket]:
    """Take the connections that wait in a socket, and close it as soon as none waits. Closing it resets those that
    wait, with their requests, and a balancer then does not know whether these were done; new ones come in any turn of
    the event loop.
    """
    taken = []
    listening.setblocking(False)
    with listening:
        while True:
            try:
                taken.append(listening.accept()[0])
            except ConnectionAbortedError:  # its client has gone again
                continue
            except OSError:  # none waits, or there is no descriptor left for one that does
                return taken


def _end_in_one(transport: WholeWrites) -> None:
    """Have the ends of an answer and of its connection come in one packet, where the system can do that, as Linux can
    with TCP: between the two, a client would send its next request into a connection that is being closed. What is sent
    until then may come 0.2 s later.
    """
    connection = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_CORK") and connection.family in {socket.AF_INET, socket.AF_INET6}:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        transport.ends_at_once = True
