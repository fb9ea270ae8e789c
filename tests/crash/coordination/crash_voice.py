"""How a process that may be killed at any moment says something: in whole lines, at once."""

import asyncio
import json
import os
import signal
from hashlib import sha256
from typing import Any


class Voice:
    """Says lines that begin with the number of an order, on standard output or another descriptor."""

    def __init__(self, number: int, *, descriptor: int = 1) -> None:
        self._number = number
        self._descriptor = descriptor
        self.say(f"born {os.getpid()}")

    def say(self, line: str) -> None:
        """Write a line: one small write to a pipe happens whole or not at all, even when the process is killed."""
        try:
            os.write(self._descriptor, f"{self._number} {line}\n".encode())
        except BrokenPipeError:  # the listener is gone: nobody would ever end this process
            os._exit(1)

    def wrong(self, what: str) -> None:
        """Say that something happened that must never happen."""
        self.say(f"wrong {what}")


def on_word(*words: signal.Signals) -> list[asyncio.Event]:
    """Return an event for each of these signals."""
    loop = asyncio.get_running_loop()
    events = [asyncio.Event() for _ in words]
    for word, event in zip(words, events, strict=True):
        loop.add_signal_handler(word, event.set)
    return events


def digest_of(payload: Any) -> str:
    """The digest that a process says in place of a whole payload."""
    return sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:16]
