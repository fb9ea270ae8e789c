"""A run that a worker of a fleet executes, and how a worker's lease ends."""

from typing import Any

from tests.integration.runs.stage import Agents

from trackside.app.storage.fleet import Taking

TAKEN = Taking.taken


async def running(server: Any, worker: Any, agents: Agents, name: str, **options: Any) -> Any:
    """Start a run on the server, and have the worker execute it."""
    handle = await server.start(name, **options)
    assert await worker.take(handle.run_id) == [TAKEN]
    await agents.until_running(name)
    return handle


def end_lease(database: Any, worker_id: str) -> None:
    database.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{worker_id}'")
