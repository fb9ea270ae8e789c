"""Clients of servers that are killed again and again: LangGraph's SDK and bare sockets, each trying until he knows.

What they were told is in `words`. What each kind of client does is in `served_clients`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from traceback import format_exc
from typing import Any, Final, Self

import httpx
from fleet_clients import Balanced
from langgraph_sdk.errors import APIStatusError
from served_clients import Client, new_id
from told_words import Words

PATIENCE: Final = 90.0  # seconds after which a client that is told nothing says so
PAUSE: Final = 0.05  # seconds before a client asks again
SHARED: Final = 3  # threads on which everybody starts runs


class Load:
    """All clients: `async with Load(urls, hook) as load`; `stop` lets them finish.

    Args:
        urls: the addresses of the servers; a client whose server is gone asks the next one.
        hook: the address that is told the ends of some runs.
        seed: decides what they do.
        clients: how many there are of each kind.
        words: notes what they are told.
        patience: seconds after which a client that is told nothing says so.
        pause: seconds between two actions of one of them, on average.
        make: makes a client; for tests that have more kinds of them.
    """

    def __init__(
        self,
        urls: Sequence[str],
        hook: str,
        *,
        seed: int,
        clients: int = 1,
        words: Words | None = None,
        patience: float = PATIENCE,
        pause: float = 0.0,
        make: type[Client] = Client,
    ) -> None:
        self.urls = urls
        self.words = Words() if words is None else words
        self.done: Counter[str] = Counter()
        self._hook = hook
        self._random = random.Random(seed)
        self._clients = clients
        self._patience = patience
        self._pause = pause
        self._make = make
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self._shared = [new_id() for _ in range(SHARED)]

    async def __aenter__(self) -> Self:
        for number in range(self._clients):
            for place, kind in enumerate(self._make.KINDS):
                balanced = await self._stack.enter_async_context(Balanced(self.urls, number + place, self._patience))
                chance = random.Random(self._random.random())
                client = self._make(balanced, self.words, chance, hook=self._hook, shared=self._shared)
                going = self._go_on(kind, client, chance)
                self._tasks.append(asyncio.create_task(going, name=f"{kind} {number}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def until_all_were_here(self) -> None:
        """Wait until a client of every kind has finished a turn, and an item is there."""
        async with asyncio.timeout(PATIENCE):
            while self._make.KINDS.keys() - self.done.keys() or not any(self.words.items.values()):
                await asyncio.sleep(PAUSE)

    async def stop(self) -> None:
        """Let every client finish what he does."""
        self._stopping.set()
        _, hanging = await asyncio.wait(self._tasks, timeout=self._patience)
        for task in hanging:
            self.words.tell("wrong", why=f"client {task.get_name()} hangs")

    async def _go_on(self, kind: str, client: Client, chance: random.Random) -> None:
        while not self._stopping.is_set():
            try:
                await self._make.KINDS[kind](client)
                self.done[kind] += 1
            except TimeoutError as exc:
                why = f"a client that {kind} was told nothing for {self._patience:g} s: {exc}"
                self.words.tell("wrong", why=why)
            except (APIStatusError, httpx.HTTPStatusError) as exc:
                self.words.tell("wrong", why=f"a client that {kind} was refused: {exc!r} {_body_of(exc)}")
                await asyncio.sleep(PAUSE)
            except Exception:  # whatever is wrong with him or with his answer: he does not vanish silently
                self.words.tell("wrong", why=f"a client that {kind} crashed: {format_exc()}")
                await asyncio.sleep(PAUSE)
            if self._pause:
                with suppress(TimeoutError):
                    async with asyncio.timeout(chance.expovariate(1 / self._pause)):
                        await self._stopping.wait()


def _body_of(exc: Any) -> str:
    return str(getattr(exc, "body", ""))[:500]
