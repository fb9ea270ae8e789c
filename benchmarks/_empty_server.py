"""The empty server: Starlette on uvicorn, which answers its clients with bytes that it already has, and does no more.

    python _empty_server.py PORT

What a client gets from it is the most that this client can get from any server. `GET /fan-out` is a stream that every
client follows; each `POST /fan-out` sends all of them one event with the time in it.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

THREAD = "01a215d1-b382-7000-8a78-0d339435ad4e"
RUN = "01a215d1-b382-7000-8a78-0d339435ad4f"
_TIME = "2026-01-01T00:00:00.000000+00:00"
_VALUES = b'{"done":true}'
_RUN = json.dumps(
    {
        "run_id": RUN,
        "thread_id": THREAD,
        "assistant_id": THREAD,
        "created_at": _TIME,
        "updated_at": _TIME,
        "status": "pending",
        "metadata": {},
        "kwargs": {"input": {"text": "hello"}, "config": {}, "stream_mode": ["values"]},
        "multitask_strategy": "enqueue",
    }
).encode()
_FRAMES = [
    b'event: metadata\r\ndata: {"run_id":"%b","attempt":1}\r\n\r\n' % RUN.encode(),
    b"event: values\r\ndata: %b\r\n\r\n" % _VALUES,
    b'event: end\r\ndata: {"run_id":"%b","status":"success"}\r\n\r\n' % RUN.encode(),
]
_HEADERS = {
    "content-location": f"/threads/{THREAD}/runs/{RUN}",
    "location": f"/threads/{THREAD}/runs/{RUN}/join",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


async def values(request: Request) -> Response:
    await request.body()
    return Response(_VALUES, media_type="application/json", headers=_HEADERS)


async def run(request: Request) -> Response:
    await request.body()
    return Response(_RUN, media_type="application/json", headers=_HEADERS)


async def stream(request: Request) -> Response:
    await request.body()

    async def frames() -> AsyncGenerator[bytes]:
        for frame in _FRAMES:
            yield frame

    return StreamingResponse(frames(), media_type="text/event-stream", headers=_HEADERS)


class _FanOut:
    """One event for everyone who follows."""

    def __init__(self) -> None:
        self._next: asyncio.Future[bytes] | None = None
        self._followers = 0

    async def follow(self, request: Request) -> Response:
        async def frames() -> AsyncGenerator[bytes]:
            self._followers += 1
            yield b": hello\r\n\r\n"
            while True:
                if self._next is None:
                    self._next = asyncio.get_running_loop().create_future()
                yield await asyncio.shield(self._next)

        return StreamingResponse(frames(), media_type="text/event-stream", headers=_HEADERS)

    async def send(self, request: Request) -> Response:
        says, self._next = self._next, None
        if says is not None:
            frame = json.dumps({"at": time.perf_counter_ns()}).encode()
            says.set_result(b"event: custom\r\ndata: %b\r\n\r\n" % frame)
        return Response(str(self._followers))


def app() -> Any:
    fan_out = _FanOut()
    return Starlette(
        routes=[
            Route("/ok", values),
            Route("/runs/wait", values, methods=["POST"]),
            Route("/runs/stream", stream, methods=["POST"]),
            Route("/threads/{thread_id}/runs", run, methods=["POST"]),
            Route("/threads/{thread_id}/runs/wait", values, methods=["POST"]),
            Route("/threads/{thread_id}/runs/stream", stream, methods=["POST"]),
            Route("/threads/{thread_id}/runs/{run_id}/join", values),
            Route("/threads/{thread_id}/runs/{run_id}/stream", stream),
            Route("/fan-out", fan_out.follow, methods=["GET"]),
            Route("/fan-out", fan_out.send, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvicorn.run(app(), port=int(sys.argv[1]), log_level="error", access_log=False, timeout_keep_alive=75)
