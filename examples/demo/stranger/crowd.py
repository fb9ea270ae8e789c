"""Many clients that have runs going at once, and note what the server told them."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import batched
from typing import Final, Self

from demo.stranger.asking import Connection
from demo.stranger.failing import StrangerError

_HANDS: Final = 8  # connections on which they ask


class Crowd:
    """Keeps a run going on each of many threads, starting the next once that one was let in, until the server is gone.

    Runs of one thread come one after the other, so as many run at once as there are threads, and the rest wait.

    Args:
        port: the server's port.
        agent: the agent to run.
        size: how many threads there are.
        each: how many runs each thread has at most.
    """

    def __init__(self, port: int, agent: str, *, size: int, each: int) -> None:
        self.threads: list[str] = []
        self.acknowledged: list[str] = []
        """The runs that the server said it has let in."""
        self._port = port
        self._agent = agent
        self._size = size
        self._each = each
        self._pool = ThreadPoolExecutor(_HANDS, thread_name_prefix="demo: crowd")
        self._at_work: Sequence[Future[None]] = ()
        self._grown = threading.Condition()

    def begin(self) -> None:
        """Make the threads, then start runs in the background."""
        with Connection(self._port) as server:
            self.threads = [server.json("POST", "/threads", {})["thread_id"] for _ in range(self._size)]
        shares = batched(self.threads, -(-self._size // _HANDS))
        self._at_work = [self._pool.submit(self._start_runs, share) for share in shares]

    def wait(self, number: int, seconds: float) -> None:
        """Wait until this many runs were acknowledged.

        Raises:
            StrangerError: they were not, after this many seconds.
        """
        with self._grown:
            if not self._grown.wait_for(lambda: len(self.acknowledged) >= number, seconds):
                raise StrangerError(f"after {seconds:g} s {len(self.acknowledged)} of {number} runs were acknowledged")

    def leave(self) -> None:
        """Wait until every client has seen that the server is gone, or has nothing more to ask.

        Raises:
            StrangerError: the server has refused a run.
        """
        for one in self._at_work:
            one.result()

    def _start_runs(self, threads: Sequence[str]) -> None:
        with Connection(self._port) as server:
            for number in range(self._each):
                for thread in threads:
                    asked = {"assistant_id": self._agent, "input": {"name": f"visitor {number}"}}
                    try:
                        run = server.json("POST", f"/threads/{thread}/runs", {**asked, "multitask_strategy": "enqueue"})
                    except (OSError, http.client.HTTPException):
                        return  # the server was killed
                    with self._grown:
                        self.acknowledged.append(run["run_id"])
                        self._grown.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
