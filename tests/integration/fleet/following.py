"""Streams of the SDK that are read as they come."""

from __future__ import annotations

import asyncio
from typing import Any


class Events:
    """A stream that is read as it comes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def until(self, event: str) -> list[Any]:
        """All parts up to the next one of this name."""
        got = []
        async with asyncio.timeout(20):
            async for part in self._stream:
                got.append(part)
                if part.event == event:
                    break
        return got

    async def rest(self) -> list[Any]:
        async with asyncio.timeout(20):
            return [part async for part in self._stream]


def said(parts: list[Any]) -> list[tuple[str, Any]]:
    return [(part.event, part.data) for part in parts]
