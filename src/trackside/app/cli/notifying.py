"""Tells a service manager how a service does, as `sd_notify(3)` has it; whoever started it otherwise hears nothing."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


def tell_service_manager(what: str) -> None:
    """Say `READY=1`, `RELOADING=1` or `STOPPING=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if what.startswith("RELOADING"):
        what += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1_000}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
        telling.setblocking(False)
        telling.sendto(what.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
