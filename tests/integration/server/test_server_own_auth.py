"""Clients identified by a function of the user's, written as for LangGraph's server."""

from __future__ import annotations

import errno
import logging
import time
from collections import UserList
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import Auth, get_client
from starlette.requests import Request

from trackside.app.server.auth.own import OwnAuthenticator, UnsuitedFunctionError
from trackside.app.server.failures import HttpError
from trackside.app.settings import AccessSettings, Settings, SettingsError
from trackside.app.wiring import open_app
from trackside.harness import RunContext

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]

MODULE = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(authorization: str | None, path: str, method: str, headers: dict) -> Auth.types.MinimalUserDict:
    if authorization is None or not authorization.startswith("Bearer user-"):
        raise Auth.exceptions.HTTPException(status_code=401, detail="Who are you?", headers={"WWW-Authenticate": "Bearer"})
    name = authorization.removeprefix("Bearer user-")
    if name == "blocked":
        raise Auth.exceptions.HTTPException(status_code=403, detail="You are blocked.")
    return {"identity": name, "permissions": ["threads:read"], "org": "acme", "github_token": "ghp_" + name * 10,
            "oauth": {"scope": "repo", "access_token": "ghp_" + name},
            "logins": [{"at": "x", "footprint": 3, "OTP": "ghp_1", "pwd": "ghp_2", "mfaOtp": "ghp_3",
                        "smsOTPCode": "ghp_4", "userTotpSeed": "ghp_5", "smsotp": "ghp_6"}]}

def by_key(headers):
    found = headers.get("x-api-key") or headers.get(b"x-api-key", b"").decode()
    assert found.startswith("letme-"), "no such key"
    return found.removeprefix("letme-")

ruled = Auth()
ruled.authenticate(authenticate)
ruled._handlers["threads", "create"] = [lambda ctx: False]

empty = Auth()

def odd(body):
    return "x"
"""


async def whoami(input: Any, run: RunContext) -> Any:
    return {name: value for name, value in run.config["configurable"].items() if name.startswith("langgraph_auth_")}


@pytest.fixture
def module(tmp_path: Path) -> str:
    file = tmp_path / "my_auth.py"
    file.write_text(MODULE)
    return str(file)


def client_of(url: str, name: str) -> Any:
    return get_client(url=url, api_key=None, headers={"Authorization": f"Bearer user-{name}"})


async def test_an_auth_object_says_who_asks_and_agents_get_to_know(
    serve_agents: ServeAgents, module: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve_agents({"whoami": whoami}, access=AccessSettings(auth=f"{module}:auth")) as served:
        async with client_of(served.url, "ada") as ada, client_of(served.url, "bob") as bob:
            thread = await ada.threads.create()
            claimed = {"user": {"identity": "root"}, "user_id": "root", "permissions": ["trackside:admin"]}
            config = {"configurable": {f"langgraph_auth_{name}": value for name, value in claimed.items()}}
            told = await ada.runs.wait(thread["thread_id"], "whoami", input={}, config=config)
            user = told.pop("langgraph_auth_user")
            assert told == {"langgraph_auth_user_id": "ada", "langgraph_auth_permissions": ["threads:read"]}
            assert user["identity"] == "ada"
            assert user["org"] == "acme"
            assert user["permissions"] == ["threads:read"]
            assert "github_token" not in user
            assert (user["oauth"], user["logins"]) == ({"scope": "repo"}, [{"at": "x", "footprint": 3}])
            assert await bob.threads.search() == []
            with pytest.raises(httpx.HTTPStatusError) as foreign:
                await bob.threads.get(thread["thread_id"])
            assert foreign.value.response.status_code == 404
        async with httpx.AsyncClient(base_url=served.url) as http:
            unknown = await http.get("/runs")
            assert (unknown.status_code, unknown.json()) == (
                401,
                {"detail": "Who are you?", "code": "not-authenticated"},
            )
            assert unknown.headers["www-authenticate"] == "Bearer"
            blocked = await http.get("/runs", headers={"authorization": "Bearer user-blocked"})
            assert (blocked.status_code, blocked.json()) == (
                403,
                {"detail": "You are blocked.", "code": "not-permitted"},
            )
            assert (await http.get("/ok")).status_code == 200
    for file in tmp_path.iterdir():  # no file has a user's secret, or what he sent
        if file.is_file() and file.name.startswith("runs.db"):
            content = file.read_bytes()
            assert b"ghp_" not in content
            assert b"Bearer user-" not in content
    assert "ghp_" not in caplog.text
    assert "user-ada" not in caplog.text


async def test_a_plain_function_is_enough(serve_agents: ServeAgents, module: str) -> None:
    async with serve_agents({"whoami": whoami}, access=AccessSettings(auth=f"{module}:by_key")) as served:
        async with get_client(url=served.url, api_key="letme-ada") as client:
            assert (await client.runs.wait(None, "whoami", input={}))["langgraph_auth_user_id"] == "ada"
        async with httpx.AsyncClient(base_url=served.url) as http:
            wrong = await http.get("/runs", headers={"x-api-key": "x"})
            assert (wrong.status_code, wrong.json()) == (401, {"detail": "no such key", "code": "not-authenticated"})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ruled", r"@auth\.on\.threads\.create has to take ctx and value"),
        ("empty", "marked with @auth.authenticate"),
        ("odd", "odd takes 'body'"),
        ("nothing", "has no nothing"),
        ("MODULE", "has no MODULE"),
    ],
)
async def test_what_cannot_be_asked_refuses_the_start(database_url: str, module: str, name: str, said: str) -> None:
    settings = Settings(database_url=database_url, access=AccessSettings(auth=f"{module}:{name}"))
    with pytest.raises(SettingsError, match=said):
        async with open_app(settings, {"whoami": whoami}):
            raise AssertionError


SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/api/threads/x",
    "root_path": "/api",
    "query_string": b"a=1&b=",
    "headers": [(b"authorization", b"Bearer hunter2"), (b"x-api-key", b"swordfish"), (b"host", b"localhost")],
}


async def asked(function: Any) -> Any:
    return await OwnAuthenticator.of(function)(SCOPE)


async def test_it_gets_what_it_asks_for_by_name() -> None:
    got: dict[str, Any] = {}

    def everything(request, path, method, query_params, headers, authorization, scope, other=None, **rest):  # type: ignore[no-untyped-def]
        got.update(locals())
        return "ada"

    assert (await asked(everything)).identity == "ada"
    assert isinstance(got["request"], Request)
    assert got["path"] == "/threads/x"
    assert got["method"] == "GET"
    assert got["query_params"] == {"a": "1", "b": ""}
    assert got["authorization"] == "Bearer hunter2"
    assert got["headers"][b"x-api-key"] == b"swordfish"
    assert got["headers"]["X-Api-Key"] == "swordfish"
    assert got["headers"].get("nothing") is None
    assert "x-api-key" in got["headers"]
    assert got["other"] is None


async def test_what_the_path_names_is_known_before_it_is_routed(serve_agents: ServeAgents, tmp_path: Path) -> None:
    file = tmp_path / "by_path.py"
    file.write_text("def auth(path_params):\n    return 'owner-of-' + path_params.get('thread_id', 'nothing')\n")
    async with serve_agents({"whoami": whoami}, access=AccessSettings(auth=f"{file}:auth")) as served:
        told = await served.client.runs.wait(
            "11111111-1111-4111-8111-111111111111", "whoami", input={}, if_not_exists="create"
        )
        assert told["langgraph_auth_user_id"] == "owner-of-11111111-1111-4111-8111-111111111111"


class User:
    identity = "ada"
    display_name = "Ada L."
    permissions = ("trackside:admin", "x")


@pytest.mark.parametrize(
    ("user", "permission"),
    [
        ("ada", "run"),
        ({"identity": "ada"}, "run"),
        ({"identity": "ada", "permissions": ["admin"]}, "run"),
        ({"identity": "ada", "permissions": ["trackside:read"]}, "read"),
        ({"identity": "ada", "permissions": "threads:read trackside:read"}, "read"),
        ({"identity": "ada", "permissions": frozenset({"trackside:read"})}, "read"),
        ({"identity": "ada", "permissions": {"trackside:read": True}.keys()}, "read"),
        ({"identity": "ada", "permissions": UserList(["trackside:read"])}, "read"),
        ({"identity": "ada", "permissions": None}, "run"),
        ({"identity": "ada", "permissions": ""}, "run"),
        ({"identity": "ada", "permissions": ["trackside:admin"]}, "admin"),
        (User(), "admin"),
    ],
)
async def test_a_user_is_a_text_or_has_an_identity(user: Any, permission: str) -> None:
    principal = await asked(lambda: user)
    assert principal.identity == "ada"
    assert principal.permission == permission


@pytest.mark.parametrize("user", [None, False, {"identity": "ada", "is_authenticated": False}])
async def test_nobody_is_nobody(user: Any) -> None:
    with pytest.raises(HttpError) as refused:
        await asked(lambda: user)
    assert refused.value.details["status"] == 401


@pytest.mark.parametrize("user", [{}, {"identity": 7}, {"identity": ""}, 7, object(), {"identity": "x" * 300}])
async def test_a_user_without_an_identity_is_the_functions_mistake(user: Any) -> None:
    with pytest.raises(HttpError) as refused:
        await asked(lambda: user)
    assert refused.value.details["status"] == 500


@pytest.mark.parametrize(
    "permissions", [False, 7, b"trackside:read", {"trackside:read": True}, iter(["trackside:read"])]
)
async def test_permissions_that_nobody_can_read_are_the_functions_mistake(
    permissions: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HttpError) as refused:
        await asked(lambda: {"identity": "ada", "permissions": permissions})
    assert refused.value.details["status"] == 500
    assert f"permissions that are {type(permissions).__name__}" in caplog.text


@pytest.mark.parametrize(
    "short", [MemoryError(), OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")]
)
async def test_what_is_short_for_the_moment_is_nobodys_mistake(
    short: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def starved() -> None:
        raise short

    with pytest.raises(HttpError) as refused:
        await asked(starved)
    assert refused.value.details["status"] == 503
    assert refused.value.details["headers"] == {"Retry-After": "1"}
    assert f"failed: {type(short).__name__}" in caplog.text


async def test_what_it_fails_with_is_logged_without_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    def failing(headers: Any) -> Any:
        raise RuntimeError(f"cannot look up {headers['authorization']} and {headers['x-api-key']}")

    with pytest.raises(HttpError) as refused:
        await asked(failing)
    assert refused.value.details["status"] == 500
    assert "cannot look up" in caplog.text
    assert "hunter2" not in caplog.text + str(refused.value)
    assert "swordfish" not in caplog.text + str(refused.value)


@pytest.mark.parametrize(("length", "is_said"), [(2_000, True), (2_001, False)])
async def test_a_sentence_is_said_that_is_not_too_long_to_look_through(
    length: int, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(headers: Any) -> Any:
        raise LookupError(f"no {headers['x-api-key']} here".ljust(length, "."))

    with pytest.raises(HttpError) as refused:
        await asked(failing)
    assert refused.value.details["status"] == 500
    (failure,) = caplog.messages
    assert ("failed: LookupError: no … here" in failure) is is_said
    assert ("failed: LookupError, which says more than 2,000 characters (" in failure) is not is_said
    assert f"({__file__}:" in failure
    assert "swordfish" not in failure


async def test_headers_of_an_exception_end_no_line() -> None:
    def refusing() -> Any:
        raise Auth.exceptions.HTTPException(status_code=401, headers={"WWW-Authenticate": "x\r\nset-cookie: a=b"})

    from trackside.app.server.responses import encoded_headers

    with pytest.raises(HttpError) as refused:
        await asked(refusing)
    ((_, value),) = encoded_headers(refused.value.details["headers"])
    assert b"\r" not in value
    assert b"\n" not in value


async def test_a_function_that_blocks_blocks_nobody_and_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from trackside.app.server.auth import calling

    assert (await asked(lambda: time.sleep(0.01) or "ada")).identity == "ada"  # in a thread: blockbuster is on
    monkeypatch.setattr(calling, "SECONDS", 0.05)

    async def hanging() -> Any:
        import asyncio

        await asyncio.Event().wait()

    with pytest.raises(HttpError) as refused:
        await asked(hanging)
    assert refused.value.details["status"] == 503


@pytest.mark.parametrize("thing", [7, "text", lambda body: "x", lambda a, /: "x", Auth()])
def test_what_cannot_say_who_asks_is_refused(thing: Any) -> None:
    with pytest.raises(UnsuitedFunctionError):
        OwnAuthenticator.of(thing)
