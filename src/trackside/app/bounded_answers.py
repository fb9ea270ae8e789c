"""Has `requests` read no more than the head of a receiver's answer, in bounded time, and follow it nowhere.

For libraries that send with `requests`: all they want to know of an answer is its status, and that is all they can
say of it. A receiver's own words may repeat what it was sent, with the key that went with it.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, override

import requests
import urllib3
import urllib3.connection
from requests.adapters import HTTPAdapter

__all__ = ["bound_answers"]


def bound_answers(session: requests.Session) -> requests.Session:
    """Have a session read no bodies of answers, and break off what takes longer than its `timeout` in all, however often a
    bit of an answer comes; half of that may go to connecting. Retries stay. The reason beside a status is HTTP's own
    phrase.

    An answer that is neither a success nor an error raises `requests.HTTPError`, as errors do where a caller asks for
    that: `requests` and its users take a 304 for success, and if a receiver sends a session on to another address, what
    the session says, and the keys that go with it, are not for that address.
    """
    adapters: Mapping[str, Any] = dict(session.adapters)
    for prefix, adapter in adapters.items():
        session.mount(prefix, _BoundedAdapter(max_retries=adapter.max_retries))
    return session


class _BoundedAdapter(HTTPAdapter):
    @override
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        _hurry(self.poolmanager)

    @override
    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        return _hurry(super().proxy_manager_for(*args, **options))

    @override
    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        if isinstance(timeout, int | float):
            timeout = urllib3.Timeout(connect=timeout / 2, total=timeout)
        response = super().send(request, stream=True, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        response._content = b""  # noqa: SLF001  # what `content` gives; there is no other way to set it
        if response.raw.length_remaining == 0:
            response.raw.drain_conn()  # there is nothing to read, and the connection is used again
        else:
            response.close()  # with the connection, on which the rest would come
        if response.ok and not 200 <= response.status_code < 300:
            raise requests.HTTPError(f"it answered {response.status_code} {response.reason}", response=response)
        return response


class _Answer(http.client.HTTPResponse):
    @override
    def begin(self) -> None:
        try:
            super().begin()
        except http.client.RemoteDisconnected:
            raise
        except http.client.HTTPException:
            raise http.client.HTTPException("its answer is not HTTP") from None
        self.reason = http.client.responses.get(self.status, "")
        self.msg.set_payload("")  # lines that are not headers, which urllib3 would log
        self.msg.defects.clear()


# Named like urllib3's own classes, whose names appear in what people read.
class HTTPConnection(urllib3.connection.HTTPConnection):
    response_class = _Answer

    @override
    def getresponse(self) -> Any:
        with _broken_off_after(self.timeout, self.sock):
            return super().getresponse()


class HTTPSConnection(urllib3.connection.HTTPSConnection):
    response_class = _Answer

    @override
    def getresponse(self) -> Any:
        with _broken_off_after(self.timeout, self.sock):
            return super().getresponse()


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = HTTPConnection


class HTTPSConnectionPool(urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = HTTPSConnection


def _hurry[M: urllib3.PoolManager](manager: M) -> M:
    """Have a manager's connections wait no longer for the whole head of an answer than for its beginning."""
    if manager.pool_classes_by_scheme["http"] is urllib3.HTTPConnectionPool:  # a SOCKS proxy has others
        classes: dict[str, Any] = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
        manager.pool_classes_by_scheme = classes
    return manager


@contextmanager
def _broken_off_after(seconds: float | None, connection: socket.socket) -> Generator[None]:
    """Break off, after this many seconds, whatever reads from the connection inside the `with` block.

    Raises:
        TimeoutError: it was broken off, whatever had been read or raised by then.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds or threading.TIMEOUT_MAX, end)
    timer.daemon = True
    timer.name = "trackside-answer"
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if is_over.is_set():
            raise TimeoutError("timed out")
