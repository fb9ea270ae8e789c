"""Has `requests` take of what a receiver answers no more than its head, in bounded time, and follows it nowhere.

For libraries that send with it: what they want to know of an answer is its status, which is all that they can say of it. A
receiver's own words may be what it was sent, with the key that went with it.
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
    bit of an answer comes; half of that may go to connecting. Retries stay. The reason beside a status is HTTP's own phrase.

    What is neither a success nor an error raises `requests.HTTPError`, as errors do where they are asked for: `requests` and
    its users take a 304 for success, and where a session is sent on to another address, what it says, and the keys that go
    with it, are not for that one.
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
            response.raw.drain_conn()  # of nothing, and the connection is used again
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
        self.msg.set_payload("")  # of lines that are no headers, which urllib3 would have in the log
        self.msg.defects.clear()


# These are called as those of urllib3, whose names stand in what people read.
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
    """Have the connections of a manager wait for heads of answers no longer than for the beginning of one."""
    if manager.pool_classes_by_scheme["http"] is urllib3.HTTPConnectionPool:  # a SOCKS proxy has others
        classes: dict[str, Any] = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
        manager.pool_classes_by_scheme = classes
    return manager


@contextmanager
def _broken_off_after(seconds: float | None, connection: socket.socket) -> Generator[None]:
    """End what is read from a connection meanwhile.

    Raises:
        TimeoutError: it was; whatever was read till then, or raised.
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
