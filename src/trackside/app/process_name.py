"""What this process is called where others see it: in the database, at the broker, by whoever is told of it."""

from __future__ import annotations

import os
import socket


def process_name() -> str:
    """The machine and the number of the process, as `machine:4711`; no two on one machine have the same at a time."""
    return f"{socket.gethostname()}:{os.getpid()}"
