"""This machine's network addresses: a browser gives up all that it is fetching when one of them comes or goes.

Chromium calls it ERR_NETWORK_CHANGED. So, in all test processes of this machine, no address changes while a page is shown.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

_FOLDER: Final = Path("/tmp")  # the machine's, whatever TMPDIR says
_NEXT, _NOW = (_FOLDER / f"trackside-addresses-{os.getuid()}-{name}" for name in ("next", "now"))
"""Locks: whoever changes addresses holds both, and so is next even where pages follow on one another."""
_PAUSE: Final = 0.02  # seconds

_shown = 0
"""How many pages this process shows or is about to show."""


@contextmanager
def changing() -> Generator[None]:
    """Wait until no page is shown, and keep others from being shown."""
    with _NEXT.open("ab") as coming, _NOW.open("ab") as now:
        fcntl.flock(coming, fcntl.LOCK_EX)
        fcntl.flock(now, fcntl.LOCK_EX)
        yield


@asynccontextmanager
async def unchanged() -> AsyncGenerator[None]:
    """Wait until no address changes or is about to, and keep others from changing one."""
    global _shown  # noqa: PLW0603
    is_first, _shown = not _shown, _shown + 1
    try:
        if is_first:  # beside another page of this process it would wait for somebody who waits for that one
            with _NEXT.open("ab") as coming:
                await _share(coming)
        with _NOW.open("ab") as now:
            await _share(now)
            yield
    finally:
        _shown -= 1


async def _share(file: BinaryIO) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(_PAUSE)
        else:
            return
