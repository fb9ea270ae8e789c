"""Tries in another process what this one had better not try itself, and ends that process if it takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Tried(NamedTuple):
    """How another process ended, and what it wrote to standard error."""

    returncode: int
    said: bytes


async def tried_elsewhere(
    command: Sequence[str],
    *,
    seconds: float,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Tried | None:
    """Run a command that reads nothing; None if it did not end in so many seconds, and was ended.

    It has this process's environment and works in its folder, or has others. A cancel of the caller ends it, too.

    Raises:
        OSError: it cannot be run, or not in this folder.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        cwd=folder,
    )
    try:
        async with asyncio.timeout(seconds):
            _, said = await process.communicate()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None
    return Tried(process.returncode, said)
