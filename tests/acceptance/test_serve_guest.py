"""An app of the user's own behind the server: `[server] app`."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from asked_server import ask
from forking import Forkery
from trackside_server import PATIENCE, TracksideServer
from websockets import CloseCode, ConnectionClosed
from websockets.sync.client import connect

AGENTS = """
import asyncio
import os
import sys

async def echo(input):
    return input

async def until_told(input):
    print("it has begun", file=sys.stderr, flush=True)
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    return {"done": True}
"""
GUEST = """
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute


@asynccontextmanager
async def lifespan(app):
    print("the guest starts", file=__import__("sys").stderr, flush=True)
    yield {"made": "by its lifespan"}
    print("the guest stops", file=__import__("sys").stderr, flush=True)


async def mine(request):
    return JSONResponse({"made": request.state.made})


async def echo(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


routes = [Route("/mine", mine), Route("/ok", mine), Route("/", mine), WebSocketRoute("/echo", echo)]
app = Starlette(routes=routes, lifespan=lifespan)


@asynccontextmanager
async def failing(app):
    raise RuntimeError("no licence")
    yield


never = Starlette(lifespan=failing)
number = 3


def of_wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]


def make_app():
    return app
"""


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")
    (tmp_path / "guest.py").write_text(GUEST, encoding="utf-8")


def test_a_guest_gets_what_is_not_ours_and_lives_as_long(tmp_path: Path, forkery: Forkery) -> None:
    with TracksideServer(
        tmp_path, "agents.py:echo", settings='[server]\napp = "guest.py:app"\n', forkery=forkery
    ) as server:
        paths = ("/mine", "/ok", "/nowhere")
        mine, ours, nowhere = (httpx.get(f"{server.url}{path}", timeout=PATIENCE) for path in paths)

        assert server.terminate() == 0

    assert mine.json() == {"made": "by its lifespan"}
    assert ours.json() == {"ok": True}
    assert (nowhere.status_code, nowhere.text) == (404, "Not Found")
    assert server.log.index("the guest starts") < server.log.index("the guest stops")


def test_an_open_websocket_of_a_guest_keeps_a_server_neither_from_beginning_anew_nor_from_letting_runs_end(
    tmp_path: Path,
) -> None:
    settings = '[server]\napp = "guest.py:app"\n'
    with TracksideServer(tmp_path, "agents.py:until_told", settings=settings) as server, ThreadPoolExecutor() as others:
        for times, number in enumerate((signal.SIGHUP, signal.SIGTERM), 1):
            with connect(f"{server.url.replace('http', 'ws')}/echo") as client:
                client.send("hello")
                assert client.recv() == "hello"
                answer = others.submit(ask, server, "until_told")
                server.wait_until_said("it has begun", times=times)
                server.signal(number)
                server.wait_until_said("waiting for 1 run", times=times)
                (tmp_path / "go").touch()
                assert answer.result() == {"done": True}
                with pytest.raises(ConnectionClosed):
                    client.recv()
            assert client.protocol.close_code == CloseCode.SERVICE_RESTART
            if number == signal.SIGHUP:
                (tmp_path / "go").unlink()
                server.wait_until_ready()

        assert server.wait() == 0


def test_nobody_gets_to_a_guest_who_is_not_known(tmp_path: Path, forkery: Forkery) -> None:
    settings = '[server]\napp = "guest.py:app"\nauth = "keys"\n'
    with TracksideServer(tmp_path, "agents.py:echo", settings=settings, forkery=forkery) as server:
        paths = ("/mine", "/", "/nowhere")
        answers = [httpx.get(f"{server.url}{path}", timeout=PATIENCE).status_code for path in paths]

    assert answers == [401, 401, 401]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("guest.py:never", "the app guest.py:never did not start"),
        ("guest.py:number", "server.app: guest.py:number is 3; it is an ASGI app"),
        ("guest.py:of_wsgi", "wrap one of WSGI, as Flask's: a2wsgi.WSGIMiddleware(app)"),
        ("guest.py:make_app", "name the app itself and not what makes it"),
        ("guest.py:nobody", "server.app: guest.py has no nobody; it has"),
        ("guest.py", "server.app: 'guest.py' is not path/file.py:name"),
    ],
)
def test_a_guest_that_cannot_be_served_is_one_line(
    trackside: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, reference: str, says: str
) -> None:
    (tmp_path / "trackside.toml").write_text(f'[server]\napp = "{reference}"\n', encoding="utf-8")

    done = trackside("serve", "agents.py:echo", "--port", "0")

    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]
