"""Tells a service manager how a service is doing, by `sd_notify(3)`; without a service manager, it tells nobody."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Final

_ASKS_EVERY: Final = 5.0  # seconds
_ASKS_FOR: Final = 60.0  # seconds; on a busy machine, most of them may pass before the next request
_LONGEST_START: Final = 3_600.0  # seconds; after that, the manager may end a start that hangs
_nobody_waits: Final = Event()
"""Set while there is no start that the service manager should wait for."""


def tell_service_manager(what: str) -> None:
    """Say `READY=1`, `RELOADING=1` or `STOPPING=1`."""
    if what.startswith("READY"):
        _nobody_waits.set()
    address = _address()
    if address is None:
        return
    if what.startswith("RELOADING"):
        what += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1_000}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
        telling.setblocking(False)
        telling.sendto(what.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


@contextmanager
def starting() -> Generator[None]:
    """Have a service manager wait, at most an hour, for `READY=1`, an order to stop, or the end of the block.

    A start may take long, for example if it brings the tables of a large database up to date; if it is killed then, it
    begins again from nothing. A thread asks for the time, because the event loop's own thread imports agents.
    """
    if _address() is None:
        yield
        return
    _nobody_waits.clear()
    asking = Thread(target=_ask_for_time, name="trackside-starting", daemon=True)
    asking.start()
    try:
        yield
    finally:
        _nobody_waits.set()
        asking.join()


def wait_no_longer() -> None:
    """Ask for no more time, because the process is told to stop. Do not call this in a signal handler."""
    _nobody_waits.set()


def _ask_for_time() -> None:
    until = time.monotonic() + _LONGEST_START
    while not _nobody_waits.is_set() and time.monotonic() < until:
        tell_service_manager(f"EXTEND_TIMEOUT_USEC={_ASKS_FOR * 1_000_000:.0f}")
        _nobody_waits.wait(_ASKS_EVERY)


def _address() -> str | None:
    """The address at which a service manager listens; None if none does."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    return address if address.startswith(("/", "@")) else None
