"""Makes processes that work on a database until they are killed, and passes on what they say.

Reads orders from its standard input, a JSON object each, and forks a process for each: the imports, which take longer than
most of these live, are done once. Every line of what they say begins with the number of their order.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
import traceback
from typing import Any

import asyncpg  # noqa: F401  # this and the next two for those who would import them later, each for itself
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.ext.asyncio  # noqa: F401
from crash_attempts import lose_attempts
from crash_cast import clear_up, perform
from crash_log import append_runs, follow_log, page_log
from crash_manager import manage_runs
from crash_zombie import haunt

WORK = {
    "manage": manage_runs,
    "append": append_runs,
    "follow": follow_log,
    "page": page_log,
    "attempts": lose_attempts,
    "perform": perform,
    "clear up": clear_up,
    "haunt": haunt,
}


PR_SET_PDEATHSIG = 1  # see prctl(2)


def die_with_parent() -> None:
    """Whatever ends the test, nothing of it goes on alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def live(order: dict[str, Any]) -> None:
    """Do the work of one order in a process of its own; say how that ended."""
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    number, kind = order.pop("order"), order.pop("kind")
    child = os.fork()
    if child == 0:
        die_with_parent()
        try:
            asyncio.run(WORK[kind](number, **order))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    os.write(1, f"{number} dead {os.waitstatus_to_exitcode(status)}\n".encode())


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those between us and the ones who work
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                live(json.loads(line))
            finally:
                os._exit(0)


if __name__ == "__main__":
    main()
