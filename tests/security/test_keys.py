"""Keys cannot be guessed, and a guesser is not told how close a guess was."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import trackside
from trackside.app.dashboard.tokens import TOKEN, check_token, token_of
from trackside.app.server.failures import HttpError
from trackside.app.storage import Store

SOURCE = Path(trackside.__file__).parent / "app"
DOORS = ("server", "dashboard")
"""The folders of the code that looks at what a client sent."""
SECRETIVE = re.compile(r"secret|digest|signature|password|hmac", re.IGNORECASE)


async def test_every_part_of_a_key_is_random(tmp_path: Path) -> None:
    """256 bits, none of them the same in all keys, or derived from what is known of a key."""
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        made = [await store.api_keys.create("k", owner="ada") for _ in range(64)]
    secrets = [one.secret.rpartition("_")[2] for one in made]
    assert len(set(secrets)) == len(secrets)
    assert {len(secret) for secret in secrets} == {64}
    for place in range(64):
        assert len({secret[place] for secret in secrets}) > 4, f"digit {place} is nearly always the same"
    for one in made:
        assert one.key.digest not in one.secret
        assert one.key.key_id not in one.secret.rpartition("_")[2]


def test_the_token_of_a_page_is_bound_to_the_browser_and_to_who_has_signed_in() -> None:
    def browser(random: str, session: str = "", path: str = "/ui/runs") -> dict[str, object]:
        cookies = f"{TOKEN}={random}; trackside_session={session}".encode()
        return {"type": "http", "path": path, "headers": [(b"cookie", cookies)]}

    made = [token_of({"type": "http", "path": "/ui", "headers": []})[1] for _ in range(64)]
    randoms = [cookie[1] for cookie in made if cookie is not None]
    assert len(set(randoms)) == 64
    assert min(map(len, randoms)) >= 32, "192 bits"
    said, _ = token_of(browser(randoms[0], "ada"))
    check_token(browser(randoms[0], "ada"), said)
    for other in (browser(randoms[1], "ada"), browser(randoms[0], "bob"), browser(randoms[0]), browser("", "ada")):
        with pytest.raises(HttpError):
            check_token(other, said)
    nobodys, _ = token_of(browser(randoms[0], "ada", "/ui/sign-in"))
    check_token(browser(randoms[0], "bob", "/ui/sign-in"), nobodys)
    for other in (
        browser(randoms[1], "ada", "/ui/sign-in"),
        browser(randoms[0], "ada"),
        browser("", "", "/ui/sign-in"),
    ):
        with pytest.raises(HttpError):
            check_token(other, nobodys)


def comparisons() -> Iterator[str]:
    """The comparisons with == or != of something whose name sounds like a secret's."""
    for path in sorted(SOURCE.rglob("*.py")):
        if not path.relative_to(SOURCE).as_posix().startswith(DOORS):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare) and any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops):
                sides = [node.left, *node.comparators]
                against_a_constant = any(isinstance(side, ast.Constant) for side in sides)
                if not against_a_constant and any(SECRETIVE.search(ast.unparse(side)) for side in sides):
                    yield f"{path.name}:{node.lineno}: {ast.unparse(node)}"


def test_secrets_are_compared_in_a_time_that_tells_nothing() -> None:
    """`==` stops at the first character that differs; `hmac.compare_digest` does not."""
    assert [*comparisons()] == []
    told = [path for path in SOURCE.rglob("*.py") if "hmac.compare_digest(" in path.read_text("utf-8")]
    assert {path.name for path in told} == {"keys.py", "tokens.py"}, "API keys, and tokens of pages"
