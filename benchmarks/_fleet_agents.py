"""The agents of a fleet that is measured. They note when they were called in the book that the environment names."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from _fleet_book import Book

BOOK = Book(Path(os.environ["FLEET_BOOK"]))


async def noop(input: Any) -> None:
    """Note the time at a place of the book."""
    BOOK.note(input)


async def sleeping(input: Any) -> None:
    """The same, then take a second, or as long as was asked for."""
    BOOK.note(input["place"])
    await asyncio.sleep(input.get("seconds", 1.0))


async def talking(input: Any, run: Any) -> None:
    """Send the time, as often as asked, at a fixed pace from a given moment; without a pace, as fast as possible."""
    BOOK.note(input["place"])
    begin, pause = input["begin"] / 1e9, input["pause"]
    await asyncio.sleep(max(0.0, begin - time.monotonic()))
    for number in range(input["parts"]):
        if pause:
            await asyncio.sleep(max(0.0, begin + number * pause - time.monotonic()))
        elif number % 20 == 0:
            await asyncio.sleep(0)
        run.send({"at": time.monotonic_ns(), "text": "x" * 160})
