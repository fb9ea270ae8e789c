"""How a process dies, and how it freezes without keeping others from a database: never in the middle of a transaction.

A process that is stopped inside a transaction, where its writer's thread may happen to be, holds what others wait for,
on SQLite the whole database; then nobody could take it for dead, and a test would wait for ever.
"""

import functools
import signal
from collections.abc import Sequence
from threading import RLock, get_ident
from typing import Any

from trackside.app.storage._writing import writer as writer_module

_writing = RLock()


def die() -> None:
    """End this process by SIGKILL; on any thread, which must not take another step."""
    signal.pthread_kill(get_ident(), signal.SIGKILL)


def keep_transactions_whole() -> None:
    """From now on, no writer of this process freezes inside a transaction. Call it before others watch the writers."""
    commit = writer_module.Writer._commit

    @functools.wraps(commit)
    def committing(writer: writer_module.Writer, jobs: Sequence[Any]) -> Any:
        with _writing:
            return commit(writer, jobs)

    writer_module.Writer._commit = committing


def freeze() -> None:
    """Stop this process until it is told to go on; on any thread, which must not take another step."""
    with _writing:
        signal.pthread_kill(get_ident(), signal.SIGSTOP)
