"""A thread that does something small again and again, whatever the event loop is busy with."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Heart:
    """Calls `beat` every so many seconds, from a thread of its own, until it is stopped. A daemon: it holds nobody up."""

    def __init__(self, beat: Callable[[], object], *, every: float) -> None:
        self._beat = beat
        self._every = every
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="trackside-heart", daemon=True).start()

    def stop(self) -> None:
        """Stop beating. May be called again."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            self._beat()
