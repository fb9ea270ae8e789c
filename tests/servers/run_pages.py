"""What the tests of a run's page share: the settings of the agents whose runs are shown, and the server's API."""

from __future__ import annotations

from typing import Any

import httpx

AGENTS = ("talks", "fails", "asks", "waits", "graph", "works")
OWN = ("speaks", "tells_more", "delegates", "nested", "huge", "chooses", "wants_text", "two", "counts")
SETTINGS = "\n".join(
    [
        "[agents]",
        *(f'{name} = "console_agents.py:{name}"' for name in AGENTS),
        *(f'{name} = "run_agents.py:{name}"' for name in OWN),
    ]
)


class Api:
    """The server's API, beside the browser."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=30)

    async def start(self, agent: str, said: Any = "hello", *, thread: str | None = None, **more: Any) -> dict[str, Any]:
        """Start a run."""
        path = "/runs" if thread is None else f"/threads/{thread}/runs"
        given = {"messages": [{"role": "user", "content": said}]} if isinstance(said, str) else said
        body = {"assistant_id": agent, "input": given, **more}
        if thread is None:
            body["on_completion"] = "keep"
        found: dict[str, Any] = (await self.client.post(path, json=body)).raise_for_status().json()
        return found

    async def ended(self, agent: str, said: Any = "hello", **more: Any) -> dict[str, Any]:
        """Start a run, and wait for its end."""
        run = await self.start(agent, said, **more)
        await self.client.get(f"/runs/{run['run_id']}/join")
        return run

    async def get(self, path: str) -> Any:
        """Ask."""
        return (await self.client.get(path)).raise_for_status().json()
