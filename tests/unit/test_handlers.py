"""Which authorization handler decides, what it gets, and what its answer means."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import pytest
from langgraph_sdk import Auth

from trackside.app.server.auth import calling
from trackside.app.server.auth.handlers import Handlers, UnsuitedHandlerError, wanted_by
from trackside.app.server.auth.own import principal_of
from trackside.app.server.failures import HttpError

SCOPE = {"type": "http", "headers": [(b"authorization", b"Bearer hunter2")]}


class Member:
    identity = "ada"
    permissions = ("threads:read",)
    team = "red"


ADA = principal_of({"identity": "ada", "permissions": ["threads:read"], "team": "red", "api_token": "hunter2"})


async def decided(auth: Auth, resource: Any = "threads", action: Any = "read", user: Any = ADA, **value: Any) -> Any:
    handlers = Handlers.of(auth)
    assert handlers is not None
    return await handlers.ask(user, SCOPE, resource, action, value)


async def refusal(auth: Auth) -> tuple[int, str]:
    with pytest.raises(HttpError) as refused:
        await decided(auth)
    return refused.value.details["status"], refused.value.details["detail"]


async def test_the_most_specific_handler_decides_alone() -> None:
    auth = Auth()

    @auth.on
    async def everything(ctx: Any, value: Any) -> Any:
        return {"by": "everything"}

    @auth.on.threads
    async def threads(ctx: Any, value: Any) -> Any:
        return {"by": "threads"}

    @auth.on.threads.read
    async def read(ctx: Any, value: Any) -> Any:
        return {"by": "read"}

    @auth.on(actions="delete")
    async def deleting(ctx: Any, value: Any) -> Any:
        return {"by": "delete"}

    @auth.on(resources=["assistants", "crons"], actions=["search"])
    async def searching(ctx: Any, value: Any) -> Any:
        return {"by": "search"}

    @auth.on.store(actions=("put", "get"))
    async def items(ctx: Any, value: Any) -> Any:
        return {"by": "store"}

    asked = {
        ("threads", "read"): "read", ("threads", "update"): "threads", ("threads", "delete"): "threads",
        ("crons", "delete"): "delete", ("crons", "search"): "search", ("assistants", "search"): "search",
        ("assistants", "read"): "everything", ("store", "put"): "store", ("store", "search"): "everything",
    }  # fmt: skip
    for (resource, action), by in asked.items():
        assert await decided(auth, resource, action) == {"by": by}, (resource, action)


async def test_where_no_handler_decides_nobody_is_asked() -> None:
    auth = Auth()

    @auth.on.threads.create
    async def create(ctx: Any, value: Any) -> Any:
        raise AssertionError

    assert await decided(auth, "threads", "read") is None
    assert Handlers.of(Auth()) is None
    assert Handlers.of(lambda: "ada") is None


@pytest.mark.parametrize(
    "user", [ADA, principal_of(Member())], ids=["a mapping", "an object"]
)  # fmt: skip
async def test_a_handler_knows_who_asks_for_what(user: Any) -> None:
    auth, seen = Auth(), []

    @auth.on
    async def everything(ctx: Any, value: Any) -> None:
        seen.append(ctx)
        value["metadata"]["owner"] = ctx.user.identity

    metadata: dict[str, Any] = {}
    assert await decided(auth, "threads", "create_run", user, metadata=metadata) == {}
    assert metadata == {"owner": "ada"}
    (ctx,) = seen
    assert isinstance(ctx, Auth.types.AuthContext)
    assert (ctx.resource, ctx.action, ctx.permissions) == ("threads", "create_run", ["threads:read"])
    found = ctx.user
    assert isinstance(found, Auth.types.BaseUser)
    assert (found.identity, found.display_name, found.is_authenticated) == ("ada", "ada", True)
    assert found.permissions == ["threads:read"]
    assert (found.team, found["team"], found.get("team"), found.get("nothing", 7)) == ("red", "red", "red", 7)
    assert "team" in found
    assert "nothing" not in found
    assert "identity" in [*found]
    with pytest.raises(KeyError):
        found["nothing"]
    with pytest.raises(AttributeError):
        _ = found.nothing


async def test_what_is_secret_of_a_user_his_handlers_know() -> None:
    auth = Auth()

    @auth.on
    async def everything(ctx: Any, value: Any) -> Any:
        return {"key": ctx.user["api_token"]}

    assert await decided(auth) == {"key": "hunter2"}
    assert "api_token" not in ADA.user
    assert "hunter2" not in repr(ADA)


async def test_a_handler_need_not_be_asynchronous() -> None:
    auth = Auth()

    def blocking(ctx: Any, value: Any) -> Any:
        time.sleep(0.01)  # in a thread: blockbuster is on
        return {"owner": ctx.user.identity}

    auth._handlers["threads", "*"] = [blocking]  # type: ignore[list-item]  # which the SDK's decorator refuses
    assert await decided(auth) == {"owner": "ada"}


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (False, 403, "you may not do this"),
        (Auth.exceptions.HTTPException(status_code=402, detail="pay first"), 402, "pay first"),
        (Auth.exceptions.HTTPException(status_code=204), 500, "its log says why"),
        (AssertionError("not yours"), 403, "not yours"),
        (AssertionError(), 403, "you may not do this"),
        (RuntimeError("hunter2"), 500, "its log says why"),
        (KeyError("namespace"), 500, "its log says why"),
        ("yes", 500, "its log says why"),
        (1, 500, "its log says why"),
        ({"owner": ["ada"]}, 500, "its log says why"),
        ({"owner": {"$ne": "ada"}}, 500, "its log says why"),
        ({"$or": [{"owner": "ada"}]}, 500, "its log says why"),
        ({7: "ada"}, 500, "its log says why"),
        ({"owner": {}}, 500, "its log says why"),
    ],
    ids=repr,
)
async def test_whatever_is_not_allowed_is_refused(
    answer: Any, status: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    auth = Auth()

    @auth.on
    async def everything(ctx: Any, value: Any) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    refused_with, detail = await refusal(auth)
    assert refused_with == status
    assert says in detail
    assert "hunter2" not in caplog.text
    if status == 500:
        assert "the authorization handler for threads.read" in caplog.text


async def test_a_handler_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = Auth()

    @auth.on
    async def everything(ctx: Any, value: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(calling, "SECONDS", 0.05)
    assert (await refusal(auth))[0] == 503


def test_a_filter_is_what_metadata_contain() -> None:
    user_id = UUID("11111111-1111-4111-8111-111111111111")
    rules = {
        "a": "x",
        "b": {"$eq": 7},
        "c": {"$contains": "x"},
        "d": {"$contains": ["x", "y"]},
        "e": user_id,
        "f": None,
    }
    assert wanted_by(rules) == {"a": "x", "b": 7, "c": ["x"], "d": ["x", "y"], "e": str(user_id), "f": None}
    assert wanted_by({}) == {}


@pytest.mark.parametrize("handler", [7, lambda ctx: True, lambda value: True])
def test_what_cannot_be_asked_is_refused_at_once(handler: Any) -> None:
    auth = Auth()
    auth._handlers["threads", "read"] = [handler]
    with pytest.raises(UnsuitedHandlerError, match="threads.read"):
        Handlers.of(auth)
