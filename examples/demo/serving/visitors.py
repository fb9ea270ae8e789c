"""The visitors who keep runs coming: LangGraph SDK clients that know nothing but the server's address."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import LangGraphError

from demo.scenario import CLAIM, COMPLAINT, DEEP_QUESTION, QUESTIONS, said

PACKAGES: Final = ("rich", "starlette", "uvicorn", "sqlalchemy", "hypothesis", "msgspec", "alembic", "typer")


@dataclass(frozen=True, slots=True)
class Errand:
    """What a visitor comes for.

    `cancel_after` is when visitors lose patience, `answer` what they say to the question they are asked; without it
    they leave the question to whoever looks at the console.
    """

    agent: str
    input: Any
    why: str
    cancel_after: float | None = None
    answer: Any = None


def errands(chance: random.Random) -> list[Errand]:
    """What a visitor may come for; the likely errands occur several times."""
    two = chance.sample(PACKAGES, 2)
    return [
        *(Errand("briefing", {"packages": chance.sample(PACKAGES, number)}, "briefing") for number in (1, 1, 2, 3)),
        *(Errand("research", said(question), "question") for question in QUESTIONS),
        Errand("support", said(COMPLAINT), "refund", answer=True),
        Errand("reviewed", said(QUESTIONS[0]), "plan to approve"),  # waits for whoever looks at the console
        Errand("expenses", said(CLAIM), "expenses to decide on"),
        Errand("briefing", {"packages": [two[0], "left-pad"]}, "a package that is not there"),
        Errand("briefing", {"packages": two}, "no patience", cancel_after=1.5),
        Errand("hurried", said(DEEP_QUESTION), "too little time"),
    ]


class Visitors:
    """Start runs, one every few seconds, until they are cancelled.

    Args:
        url: the server's address.
        every: seconds between two runs, on average.
        seed: decides what the visitors come for.
    """

    def __init__(self, url: str, *, every: float, seed: int = 7) -> None:
        self._url = url
        self._every = every
        self._chance = random.Random(seed)  # what comes when is no secret
        self.started = 0
        """How many runs the visitors have started."""

    async def come(self) -> None:
        """Start a few runs at once, so that there is something to see, then one after another."""
        async with get_client(url=self._url, api_key=None) as client, asyncio.TaskGroup() as group:
            for errand in errands(self._chance):
                group.create_task(self._run(client, errand))
            while True:
                await asyncio.sleep(self._chance.expovariate(1 / self._every))
                group.create_task(self._run(client, self._chance.choice(errands(self._chance))))

    async def _run(self, client: LangGraphClient, errand: Errand) -> None:
        # Somebody at the console may have cancelled, answered or deleted what this visitor waits for.
        with suppress(httpx.HTTPError, LangGraphError):
            await self._see_through(client, errand)

    async def _see_through(self, client: LangGraphClient, errand: Errand) -> None:
        thread = await client.threads.create(metadata={"errand": errand.why})
        thread_id = thread["thread_id"]
        metadata = {"errand": errand.why, "visitor": f"visitor-{self._chance.randint(1, 40)}"}
        run = await client.runs.create(
            thread_id,
            errand.agent,
            input=errand.input,
            metadata=metadata,
            stream_mode=["values", "messages", "custom"],
        )
        self.started += 1
        if errand.cancel_after is not None:
            await asyncio.sleep(errand.cancel_after)
            await client.runs.cancel(thread_id, run["run_id"])
            return
        await client.runs.join(thread_id, run["run_id"])
        if errand.answer is not None:
            state = await client.threads.get_state(thread_id)
            if _asks(state):
                await client.runs.wait(thread_id, errand.agent, command={"resume": errand.answer}, metadata=metadata)


def _asks(state: Any) -> Sequence[Any]:
    found: Sequence[Any] = state.get("interrupts") or [
        one for task in state.get("tasks", ()) for one in task.get("interrupts", ())
    ]
    return found
