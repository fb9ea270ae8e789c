"""How a process that may be killed at any moment says something: whole lines, at once."""

import asyncio
import json
import os
import signal
from hashlib import sha256
from typing import Any


class Voice:
    """Says lines that begin with the number of an order, on standard output or to another descriptor."""

    def __init__(self, number: int, *, descriptor: int = 1) -> None:
        self._number = number
        self._descriptor = descriptor
        self.say(f"born {os.getpid()}")

    def say(self, line: str) -> None:
        """One small write to a pipe happens whole or not at all, also when the process is killed."""
        try:
            os.write(self._descriptor, f"{self._number} {line}\n".encode())
        except BrokenPipeError:  # whoever listened is gone: nobody would ever end this process
            os._exit(1)

    def wrong(self, what: str) -> None:
        """Something that must never be."""
        self.say(f"wrong {what}")


def on_word(*words: signal.Signals) -> list[asyncio.Event]:
    """An event for each of these signals."""
    loop = asyncio.get_running_loop()
    events = [asyncio.Event() for _ in words]
    for word, event in zip(words, events, strict=True):
        loop.add_signal_handler(word, event.set)
    return events


def digest_of(payload: Any) -> str:
    """What a process says of a payload instead of all of it."""
    return sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:16]
