"""Answers scrapes at a port of its own, from a thread."""

from __future__ import annotations

import errno
import socket
import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from trackside.app.delivery import ObserverOptionError


class MetricsServer:
    """prometheus_client's HTTP server: listens from `start` to `stop`, which any thread may call, also repeatedly."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.asked = False
        """Whether it was ever told to start."""
        self._host = host
        self._port = port
        self._registry = registry
        self._lock = threading.Lock()
        self._running: tuple[WSGIServer, threading.Thread] | None = None
        self._stopped = False

    @property
    def port(self) -> int | None:
        """Where it listens; None if it does not."""
        running = self._running
        return None if running is None else running[0].server_port

    def start(self) -> None:
        """Listen, unless it already does or has been stopped.

        Raises:
            ObserverOptionError: nobody can listen there.
        """
        with self._lock:
            self.asked = True
            if self._running is not None or self._stopped:
                return
            try:
                self._running = start_http_server(self._port, self._host, self._registry)
            except (OSError, UnicodeError) as exc:
                raise self._complaint(exc) from exc

    def stop(self) -> None:
        """Stop listening, for good. This takes up to half a second."""
        with self._lock:
            self._stopped = True
            running, self._running = self._running, None
            if running is not None:
                server, thread = running
                server.shutdown()
                thread.join()
                server.server_close()

    def _complaint(self, exc: OSError | UnicodeError) -> ObserverOptionError:
        place = f"{self._host}:{self._port}"
        if isinstance(exc, socket.gaierror | UnicodeError) or exc.errno == errno.EADDRNOTAVAIL:
            why = f"{self._host!r} is not an address of this machine; write 127.0.0.1 for this machine only, 0.0.0.0 for all"
            return ObserverOptionError(option="host", why=why)
        if exc.errno == errno.EADDRINUSE:
            whose = "by another program, or by an observer of this one that was not closed"
            return ObserverOptionError(option="port", why=f"{place} is taken {whose}; close it, or choose another port")
        return ObserverOptionError(option="port", why=f"nobody can listen at {place}: {exc.strerror}")
