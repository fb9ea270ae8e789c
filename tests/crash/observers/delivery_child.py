"""Makes processes to kill, which run agents or are the command `trackside`: see `crash_forking`."""

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Any

import asyncpg  # noqa: F401  # this and the next two for those who would import them later, each for itself
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.ext.asyncio  # noqa: F401
from crash_forking import fork_for_orders
from crash_voice import Voice, on_word
from delivery_fates import meet_fate

import trackside.app.cli.actions.delivering
import trackside.app.cli.actions.subscriptions
import trackside.app.cli.commands.parser  # these, too
import trackside.app.observers.broker._nats
import trackside.app.observers.broker._redis
import trackside.app.observers.webhook  # noqa: F401
from trackside import ObserverBinding, RunContext, RunManager, RunSpec
from trackside.app.cli import main as trackside_command
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness.errors import NoResultHereError

CALLERS = 4
LONGEST_PAUSE = 0.4
"""Seconds at most between two runs of one caller: there has to be something to deliver at any moment, but no flood."""


def command(number: int, *, url: str, folder: str, arguments: list[str], fate: str | None = None) -> None:
    """Be the command `trackside` in a folder with a `trackside.toml`, to its end, or until it meets this fate."""
    voice = Voice(number, descriptor=os.dup(1))
    os.chdir(folder)
    printed = Path(f"printed-{number}")
    voice.say(f"prints {printed}")
    with printed.open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    if fate is not None:
        meet_fate(fate, voice)
    voice.say(f"left {trackside_command([*arguments, '--database', url])}")


async def quick(input: Any, run: RunContext) -> dict[str, Any]:
    """Use a model, and say something of some length."""
    run.record_usage("small", input_tokens=7, output_tokens=3)
    await asyncio.sleep(random.uniform(0, 0.01))
    return {"said": str(input) * random.choice([1, 100])}


async def fails(input: Any, run: RunContext) -> None:
    """Fail."""
    raise ValueError(f"{input} ✗")


async def run_agents(number: int, *, url: str) -> None:
    """Run agents one after another, a few at a time, until killed, or until told to let them end."""
    random.seed()
    voice = Voice(number)
    (done,) = on_word(signal.SIGTERM)

    async def call(caller: int) -> None:
        while not done.is_set():
            spec = RunSpec(random.choice(["quick", "quick", "fails"]), "ä\u2028\x00" * 9, thread_id=f"thread-{caller}")
            with contextlib.suppress(NoResultHereError):
                await (await manager.start(spec)).result()
            voice.say("done")
            await asyncio.sleep(random.uniform(0, LONGEST_PAUSE))

    async with (
        Store.open(url) as store,
        RunManager(
            {"quick": quick, "fails": fails},
            observers=[ObserverBinding(StorageObserver(store), required=True)],
            coordinator=store.coordinator(),
        ) as manager,
        asyncio.TaskGroup() as callers,
    ):
        voice.say("ready")
        for caller in range(CALLERS):
            callers.create_task(call(caller))


if __name__ == "__main__":
    fork_for_orders({"command": command, "agents": run_agents})
