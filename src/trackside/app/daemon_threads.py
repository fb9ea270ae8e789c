"""Threads for libraries that block. No process waits for them when it ends: whatever does not answer delays nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import override

__all__ = ["DaemonThreads"]


class DaemonThreads(Executor):
    """A thread for each job. Whoever submits jobs bounds how many there are at once.

    Args:
        name: the name of the threads.
        one_by_one: whether a job waits until those that began before it are over, even those that nobody waits for now.
    """

    def __init__(self, name: str, *, one_by_one: bool = False) -> None:
        self._name = name
        self._turn = threading.Lock() if one_by_one else None

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        job: Future[T] = Future()

        def work() -> None:
            if not job.set_running_or_notify_cancel():
                return
            try:
                job.set_result(fn(*args, **kwargs))
            except BaseException as exc:  # noqa: BLE001  # whoever waits for the job gets it
                job.set_exception(exc)

        def take_turn() -> None:
            if self._turn is None:
                work()
            else:
                with self._turn:
                    work()

        threading.Thread(target=take_turn, name=self._name, daemon=True).start()
        return job
