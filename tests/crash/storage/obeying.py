"""What processes that are killed have in common: a child for each line of standard input, and what it says of itself.

The imports, which take longer than a child lives, are done once.
"""

import asyncio
import os
import random
import sys
from collections.abc import Callable, Coroutine
from typing import Any


def say(line: str) -> None:
    # One small write to a pipe happens whole or not at all, even when the process is killed.
    os.write(1, f"{line}\n".encode())


def obey(work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Do the work of each line in a child of its own; go on to the next when that child is dead."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            random.seed()
            asyncio.run(work(line.strip()))
            os._exit(0)
        say(f"child {child}")
        _, status = os.waitpid(child, 0)
        say(f"dead {os.waitstatus_to_exitcode(status)}")
