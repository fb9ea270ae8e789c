"""What tests ask a fleet for, one run at a time, and what they are told: both go into the words that are checked."""

from __future__ import annotations

import uuid
from typing import Any

from fleet import Fleet
from fleet_check import Asked, Words


async def started(
    fleet: Fleet, agent: str, words: Words, *, parts: int, gate: str | None = None, at: int = 0, **more: Any
) -> Asked:
    """Start a run, which one of the servers lets in; with a gate it ends when that is open, if nobody is in its way.

    `more` is for `runs.create`, except `pause`, which is what the agent waits after each part, and `breaks`.
    """
    thread_id, token = str(uuid.uuid4()), uuid.uuid4().hex
    work = {"token": token, "parts": parts, "pause": more.pop("pause", 0.0), "breaks": more.pop("breaks", False)}
    run = await fleet.clients[at].runs.create(
        more.pop("thread_id", thread_id),
        agent,
        input={**work, **({} if gate is None else {"gate": gate})},
        if_not_exists="create",
        stream_mode=["custom"],
        stream_resumable=True,
        **more,
    )
    return noted(words, run["run_id"], run["thread_id"], token)


def noted(words: Words, run_id: str, thread_id: str, token: str) -> Asked:
    """Note a run that somebody has asked for."""
    return words.asked.setdefault(run_id, Asked(run_id, thread_id, token))


async def answered(fleet: Fleet, asked: Asked, *, at: int = 0) -> Any:
    """What a server says of a run to a client that waits for its end."""
    answer = await fleet.clients[at].runs.join(asked.thread_id, asked.run_id)
    asked.answer, asked.is_answered = answer, True
    return answer


async def next_attempt(fleet: Fleet, asked: Asked, words: Words) -> Asked:
    """The run that goes on for one whose worker was lost."""

    def look() -> str | None:
        found = fleet.ask(f"SELECT run_id FROM runs WHERE retry_of = '{asked.run_id}'")
        return found[0][0] if found else None

    run_id = await fleet.until(look, f"run {asked.run_id} goes on as another")
    return noted(words, run_id, asked.thread_id, asked.token)
