"""A server with records in its database: commands ask either of the two, and find the same."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forking import Forkery
from trackside_server import TracksideServer

from trackside.app.storage import Store
from trackside.harness.types import RunStatus
from trackside.testing import make_run

AGENTS = """
import asyncio
import operator
from typing import Annotated, TypedDict

from langgraph.graph import START, StateGraph

async def echo(input, run):
    run.set_title("On \\u2028 trains")
    run.record_usage("gpt-5-mini", input_tokens=1200, output_tokens=400)
    for number in range(3):
        run.send({"step": number, "text": "a\\u2028b\\u0085c"})
    return {"answer": input}

async def fail(input):
    raise LookupError("no kettles")

async def ask(input, run):
    return {"said": run.interrupt("how many?")}

async def sleep(input):
    await asyncio.Event().wait()

async def refund(input, run):
    return {order: run.interrupt(f"refund order {order}?") for order in (7, 8)}

async def sign(input, run):
    run.interrupt("may I?")
    await asyncio.Event().wait()

class Walked(TypedDict):
    steps: Annotated[list, operator.add]

steps = StateGraph(Walked)
for before, name in zip([START, "read", "pay"], ["read", "pay", "ship"]):
    steps.add_node(name, lambda state, name=name: {"steps": [name]}).add_edge(before, name)
walk = steps.compile()
"""
SETTINGS = '[server]\nauth = "keys"\n[agents]\n' + "".join(
    f'{name} = "agents.py:{name}"\n' for name in ("echo", "fail", "ask", "sleep", "sign", "refund", "walk")
)


@dataclass(frozen=True)
class Served:
    """A server, its database, and keys of the three permissions."""

    url: str
    database: str
    keys: dict[str, str]

    def at(self, place: str, permission: str = "admin") -> list[str]:
        """What has to be typed for the records of a place."""
        if place == "database":
            return ["--database", self.database]
        return ["--url", self.url, "--api-key", self.keys[permission]]


@contextmanager
def serving(folder: Path, forkery: Forkery) -> Iterator[Served]:
    """Serve the agents, over a database that is prepared."""
    (folder / "agents.py").write_text(AGENTS)
    database = f"sqlite:///{folder / 'runs.db'}"
    keys = asyncio.run(prepare(database))
    with TracksideServer(folder, database=database, settings=SETTINGS, forkery=forkery) as server:
        yield Served(server.url, database, keys)


async def prepare(database: str) -> dict[str, str]:
    """Keys; runs of another program; a subscription that has parked an event, and one that is paused."""
    async with Store.open(database) as store:
        for number, status in enumerate((RunStatus.success, RunStatus.error, RunStatus.success), 1):
            await store.append(make_run(f"run-{number}", thread_id=f"thread-{number}", messages=number, status=status))
        subs = store.subscriptions
        await subs.open("mail", start="beginning", types=["run_failed", "human_message"])
        async with await subs.acquire("mail") as consumer:
            batch = await consumer.read()
            for stored in batch.events[:2]:
                await consumer.park(stored.position, "no such user", attempts=5)
        await subs.open("hook", start=3)
        await subs.pause("hook")
        for number in (10, 11):  # whose ids begin as that of another one
            await store.threads_of(None).create(f"thread-{number}")
        made = {}
        for permission in ("read", "run", "admin"):
            made[permission] = (await store.api_keys.create(permission, owner="ada", permission=permission)).secret
        return made


def objects(done: subprocess.CompletedProcess[str], code: int = 0) -> list[dict[str, Any]]:
    """What a command that ended with this code has written, line by line, and nothing else."""
    assert (done.returncode, done.stderr) == (code, "")
    return [json.loads(line) for line in done.stdout.removesuffix("\n").split("\n")]
