"""A stranger walks all endpoints that there are, with the ids of somebody else wherever an id may stand, and finds nothing.

The walk is in `endpoint_walk.py`, driven by the table of endpoints.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from langgraph_sdk import get_client
from tests.integration.server.endpoint_walk import (
    ENDPOINTS,
    SECRET,
    Place,
    Things,
    Visit,
    ask,
    changed,
    inventory,
    place_of,
    visits,
)

from trackside.app.server.principal import Permission

type ServeAgents = Callable[..., Any]


AUTH = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(headers):
    name, _, permission = headers["x-api-key"].partition(":")
    return {"identity": name, "permissions": [permission]}

@auth.on
async def decide(ctx, value):
"""
OWNERS = """
    filters = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(filters)
    return filters
"""
ADA_ALONE = """
    return ctx.user.identity == "ada" or "maker" in ctx.permissions
"""


async def test_a_stranger_finds_nothing_wherever_he_looks(serve_agents: ServeAgents) -> None:
    async with place_of(serve_agents) as place:
        await look_everywhere(place)


async def test_a_stranger_finds_nothing_where_a_handler_decides(serve_agents: ServeAgents, tmp_path: Path) -> None:
    auth = tmp_path / "owners.py"
    auth.write_text(AUTH + OWNERS)
    async with place_of(serve_agents, auth) as place:
        await look_everywhere(place)


async def test_whom_a_handler_denies_everything_gets_nothing(serve_agents: ServeAgents, tmp_path: Path) -> None:
    auth = tmp_path / "alone.py"
    auth.write_text(AUTH + ADA_ALONE)
    async with place_of(serve_agents, auth) as place:
        before = await inventory(place)
        found: list[str] = []
        async with httpx.AsyncClient(base_url=place.url, timeout=30) as http:
            for visit in visits(place):
                if visit.endpoint.needs is Permission.public and not visit.endpoint.refuses:
                    continue
                for who in ("stranger", "reader"):
                    status, said = await ask(http, visit, place.keys[who])
                    if status not in {403, 404} or any(secret in said for secret in place.secrets()):
                        found.append(f"{visit} answers whom everything is denied: {status} {said[:200]}")
        found += [f"afterwards: {line}" for line in changed(before, await inventory(place))]
        assert not found, "\n".join(dict.fromkeys(found))


def test_every_endpoint_says_what_handlers_decide_on() -> None:
    """One that does not is for nobody where there are handlers."""
    silent = [
        f"{one.method} {one.path}" for one in ENDPOINTS if one.about is None and one.needs is not Permission.public
    ]
    assert not silent


async def look_everywhere(place: Place) -> None:
    """See that a stranger finds nothing."""
    before = await inventory(place)
    found: list[str] = []
    async with httpx.AsyncClient(base_url=place.url, timeout=30) as http:
        for visit, nothing in zip(visits(place), visits(place, nowhere(place)), strict=True):
            for who in ("stranger", "reader"):
                status, said = await ask(http, visit, place.keys[who])
                found += wrong_with(visit, who, status, said, place)
                if visit.names_foreign_path and status == 404 and not makes_threads(visit.body):
                    there, as_said = status, without_ids(said)
                    status, said = await ask(http, nothing, place.keys[who])
                    if (there, as_said) != (status, without_ids(said)):
                        found.append(f"{visit} says that there is something: {as_said}, else {status} {said}")
    found += [f"afterwards: {line}" for line in changed(before, await inventory(place))]
    assert not found, "\n".join(dict.fromkeys(found))


def nowhere(place: Place) -> Place:
    """The same place with ids of things that nobody has."""
    unknown = [
        Things(str(uuid4()), str(uuid4()), str(uuid4()), it.cron_id and str(uuid4()))
        for it in (place.finished, place.running)
    ]
    for it, known in zip(unknown, (place.finished, place.running), strict=True):
        if known.checkpoint_id is None:
            it.checkpoint_id = None
    return replace(place, finished=unknown[0], running=unknown[1])


def without_ids(said: str) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", said)


def makes_threads(body: Any) -> bool:
    """Whether a request makes the thread that it names, if there is none: to nobody's thread it has another answer."""
    return "if_not_exists" in str(body) or "run.start" in str(body)


def wrong_with(visit: Visit, who: str, status: int, said: str, place: Place) -> Iterator[str]:
    needs = visit.endpoint.needs
    lacks = {"reader": needs in {Permission.run, Permission.admin}, "stranger": needs is Permission.admin}[who]
    leaked = [secret for secret in place.secrets() if secret in said]
    if leaked:
        yield f"{visit} tells a {who} {leaked}: {status} {said[:200]}"
    if status >= 500 and not visit.endpoint.refuses:
        yield f"{visit} fails for a {who}: {status} {said[:200]}"
    if visit.endpoint.refuses:
        if status != 501:
            yield f"{visit} should refuse a {who}: {status} {said[:200]}"
    elif lacks:
        if status != 403:
            yield f"{visit} needs {needs}, which a {who} lacks: {status} {said[:200]}"
    elif visit.names_foreign_path and status != 404:
        yield f"{visit} is not a {who}'s: {status} {said[:200]}"


async def test_nobody_gets_anything_without_a_good_key(serve_agents: ServeAgents) -> None:
    async with place_of(serve_agents) as place:
        before = await inventory(place)
        found: list[str] = []
        async with httpx.AsyncClient(base_url=place.url, timeout=30) as http:
            for visit in visits(place):
                if visit.endpoint.needs is Permission.public and not visit.endpoint.refuses:
                    continue
                for who in (None, "unknown", "revoked", "expired"):
                    status, said = await ask(http, visit, who and place.keys[who])
                    if status != 401 or any(key in said for key in place.keys.values()):
                        found.append(f"{visit} answers without a good key ({who}): {status} {said[:200]}")
        found += [f"afterwards: {line}" for line in changed(before, await inventory(place))]
        assert not found, "\n".join(dict.fromkeys(found))


async def test_what_is_for_everybody_tells_nothing(serve_agents: ServeAgents) -> None:
    async with place_of(serve_agents) as place, httpx.AsyncClient(base_url=place.url, timeout=30) as http:
        for visit in visits(place):
            if visit.endpoint.needs is Permission.public and not visit.endpoint.refuses:
                status, said = await ask(http, visit, None)
                assert status < 500, visit
                assert not [secret for secret in place.secrets() if secret in said], visit


async def test_the_walk_names_things_that_are_there(serve_agents: ServeAgents) -> None:
    """Who may see them sees them: else the stranger would find nothing because there was nothing."""
    async with place_of(serve_agents) as place, httpx.AsyncClient(base_url=place.url, timeout=30) as http:
        missing: list[str] = []
        for visit in visits(place):
            looks = visit.endpoint.method == "GET" and visit.names_foreign_path and "mine with hers" not in visit.what
            if not looks or visit.endpoint.refuses or "running" in visit.what or "her before" in visit.what:
                continue
            for who in ("ada", "root"):
                if visit.endpoint.needs is Permission.admin and who == "ada":
                    continue
                status, said = await ask(http, visit, place.keys[who])
                if status not in {200, 204}:
                    missing.append(f"{visit}: {who} gets {status} {said[:200]}")
        assert not missing, "\n".join(dict.fromkeys(missing))


async def test_a_follower_of_the_log_sees_his_own_events_alone(serve_agents: ServeAgents) -> None:
    async with place_of(serve_agents) as place, httpx.AsyncClient(base_url=place.url, timeout=30) as http:
        headers = {"x-api-key": place.keys["stranger"]}
        async with http.stream("GET", "/events/stream", params={"after": 0}, headers=headers) as answer:
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            await place.ada.runs.wait(None, "chat", input={"text": SECRET}, metadata={"note": SECRET})
            async with get_client(url=place.url, api_key=place.keys["stranger"]) as bob:
                await bob.runs.wait(None, "chat", input={"text": "x"}, metadata={"note": "my last words"})
            async with asyncio.timeout(60):
                async for line in lines:
                    assert not [secret for secret in place.secrets() if secret in line]
                    if "my last words" in line:
                        break


async def test_who_has_nothing_is_told_of_nothing(serve_agents: ServeAgents) -> None:
    """Numbers tell of others, too: counts, totals, and how many there would be on other pages."""
    looks = [
        ("POST", "/threads/search", {}),
        ("POST", "/threads/count", {}),
        ("POST", "/runs/crons/search", {}),
        ("POST", "/runs/crons/count", {}),
        ("POST", "/store/items/search", {"namespace_prefix": ["carol"]}),
        ("POST", "/store/namespaces", {"prefix": ["carol"]}),
        ("GET", "/runs", None),
        ("GET", "/threads", None),
        ("GET", "/agents", None),
        ("GET", "/events", None),
        ("GET", "/stats", None),
        ("GET", "/stats/failures", None),
        ("GET", "/stats/now", None),
        ("GET", "/stats/timeline?since=2026-01-01T00:00:00Z&width=86400", None),
    ]
    async with place_of(serve_agents) as place, httpx.AsyncClient(base_url=place.url, timeout=30) as http:
        newcomer = (await place.app.store.api_keys.create("k", owner="carol")).secret
        for method, path, body in looks:
            answer = await http.request(method, path, json=body, headers={"x-api-key": newcomer})
            assert answer.status_code == 200, (path, answer.text)
            assert not numbers_in(answer.json()) - {86_400}, path
            assert answer.headers.get("x-pagination-total", "0") == "0", path
            assert "x-pagination-next" not in answer.headers, path


def numbers_in(said: Any) -> set[float]:
    """All numbers that are not nothing."""
    if isinstance(said, dict | list):
        return set().union(*map(numbers_in, said.values() if isinstance(said, dict) else said))
    return {said} if isinstance(said, int | float) and not isinstance(said, bool) and said else set()
