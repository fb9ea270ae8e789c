"""What clients are told when they get something wrong: what it was, what there is, and nothing internal."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from trackside.app.cli.actions.explaining import explanations
from trackside.app.server.schedules import InvalidScheduleError, Schedule
from trackside.app.settings import ServerSettings

_EXPLAINED = frozenset(explanations())


class State(TypedDict):
    log: str


def graph() -> Any:
    builder = StateGraph(State)
    builder.add_node("look", lambda state: {"log": "looked"})
    builder.add_edge(START, "look")
    builder.add_edge("look", END)
    return builder.compile(name="looking")


async def plain(input: Any) -> Any:
    return input


async def forgetful(input: Any) -> Any:
    return input["flight"]


async def test_a_node_that_there_is_not_is_told_with_those_that_there_are(serve_agents: Any) -> None:
    async with serve_agents({"looking": graph()}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        await http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "looking", "input": {"log": ""}})
        answer = await http.post(f"/threads/{thread}/state", json={"values": {"log": "x"}, "as_node": "nope"})
        assert (answer.status_code, answer.json()["detail"]) == (422, "as_node = 'nope': the graph's nodes are look.")


async def test_a_key_that_is_used_again_tells_of_no_other_run(serve_agents: Any) -> None:
    async with serve_agents({"plain": plain}) as served, httpx.AsyncClient(base_url=served.url) as http:
        again = {"Idempotency-Key": "kk"}
        await http.post("/runs", json={"assistant_id": "plain", "input": 1}, headers=again)
        answer = await http.post("/runs", json={"assistant_id": "plain", "input": 2}, headers=again)
        said = "Idempotency-Key 'kk': a run was started with it and asked for something else"
        assert (answer.status_code, answer.json()["detail"]) == (422, said)


@pytest.mark.parametrize("key", ["k" * 253, "tab\there"])
async def test_a_key_that_can_be_none_is_told_apart_from_one_that_is_used_again(serve_agents: Any, key: str) -> None:
    async with serve_agents({"plain": plain}) as served, httpx.AsyncClient(base_url=served.url) as http:
        asked = {"assistant_id": "plain", "input": 1}
        answer = await http.post("/runs", json=asked, headers={"Idempotency-Key": key})
        longest = await http.post("/runs", json=asked, headers={"Idempotency-Key": "k" * 252})
        assert (answer.status_code, longest.status_code) == (422, 200)
        assert answer.json()["detail"].endswith("it is a text of up to 252 printable characters")


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (("POST", "/threads/01900000-0000-7000-8000-000000000000/runs"), 404, "unknown-thread"),
        (("POST", "/runs"), 422, "invalid-request"),
        (("GET", "/nowhere"), 404, "not-found"),
        (("PUT", "/runs"), 405, "method-not-allowed"),
    ],
)
async def test_a_failure_has_the_code_that_it_is_explained_under(
    serve_agents: Any, asked: tuple[str, str], status: int, code: str
) -> None:
    async with serve_agents({"plain": plain}) as served, httpx.AsyncClient(base_url=served.url) as http:
        body = {"assistant_id": "plain", "input": 1} if "threads" in asked[1] else {"assistant_id": 5}
        answer = await http.request(*asked, json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert code in _EXPLAINED


async def test_an_error_is_named_once(serve_agents: Any) -> None:
    async with serve_agents({"forgetful": forgetful}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.post("/runs/wait", json={"assistant_id": "forgetful", "input": {}})
        assert answer.json() == {"__error__": {"error": "KeyError", "message": "'flight'"}}


@pytest.mark.parametrize(("console", "place"), [(True, "/ui"), (False, "/docs")])
async def test_the_root_leads_people_to_the_console_or_to_the_page_about_the_api(
    serve_agents: Any, console: bool, place: str
) -> None:
    server = ServerSettings(console=console)
    async with (
        serve_agents({"plain": plain}, server=server) as served,
        httpx.AsyncClient(base_url=served.url) as http,
    ):
        answer = await http.get("/")
        assert (answer.status_code, answer.headers["location"]) == (307, place)
        assert (await http.get("/", follow_redirects=True)).headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("schedule", "timezone", "said"),
    [
        ("61 * * * *", None, "the minute 61 is not from 0 to 59"),
        ("0 25 * * *", None, "the hour 25 is not from 0 to 23"),
        ("* * * * 1,9", None, "the day of the week 9 is not from 0 to 7"),
        ("0 9 * * *", "Mars/North", "timezone = 'Mars/North' is not a time zone: they have IANA names"),
    ],
)
def test_a_schedule_that_there_is_not_is_told_by_what_is_wrong(schedule: str, timezone: str | None, said: str) -> None:
    with pytest.raises(InvalidScheduleError, match=said):
        Schedule(schedule, timezone)


async def test_why_a_token_is_refused_is_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    import jwt

    from trackside.app.server.auth.tokens import TokenAuthenticator, TokenRules
    from trackside.app.server.failures import HttpError

    known = TokenAuthenticator.of(TokenRules(), key="s" * 40, jwks=None)
    token = jwt.encode({"sub": "ada"}, "s" * 40, "HS256")
    with caplog.at_level(logging.WARNING, "trackside.server"):
        for _ in range(3):
            with pytest.raises(HttpError):
                await known({"headers": [(b"authorization", f"Bearer {token}".encode())]})
    assert caplog.messages == ['a token was refused: Token is missing the "exp" claim']
