"""Which headers of a request become part of a run's config."""

from __future__ import annotations

from pathlib import Path

import pytest

from trackside.app.config_headers import CREDENTIALS, headers_for_config, is_said_by_headers
from trackside.app.settings import SettingsError, load_settings

SENT = [(b"x-tenant", b"acme"), (b"x-user-name", b"ada"), (b"x-user-key", b"s3cret"), (b"accept", b"*/*")]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ((), {}),
        (("!x-user-key",), {}),
        (("x-tenant",), {"x-tenant": "acme"}),
        (("X-Tenant",), {"x-tenant": "acme"}),
        (("x-tenan",), {}),
        (("tenant",), {}),
        (("x-user-*", "!x-user-key"), {"x-user-name": "ada"}),
        (("!x-user-*", "x-*"), {"x-tenant": "acme"}),
        (("*", "!*"), {}),
        (("*-*e*",), {"x-tenant": "acme", "x-user-name": "ada", "x-user-key": "s3cret"}),
    ],
)
def test_headers_fit_by_their_names(patterns: tuple[str, ...], found: dict[str, str]) -> None:
    assert headers_for_config(patterns, SENT) == found


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ((), ()),
        (("X-Tenant",), ("x-tenant",)),
        (("x-*",), ("x-tenant", "x-user-key")),
        (("x-*", "!x-user-*"), ("x-tenant",)),
        (("*", "**"), ()),
        (("*", "x-tenant"), ("x-tenant",)),
        (("thread*", "langgraph_*", "model"), ("model",)),
    ],
)
def test_names_are_those_of_headers_if_one_is_named_for_them(patterns: tuple[str, ...], said: tuple[str, ...]) -> None:
    names = ("x-tenant", "x-user-key", "x-api-key", "cookie", "thread_id", "langgraph_auth_user", "model")
    assert tuple(name for name in names if is_said_by_headers(name, patterns)) == said


def test_credentials_fit_nothing() -> None:
    sent = [(name.encode(), b"s3cret") for name in CREDENTIALS] + [(b"Authorization", b"s3cret")]
    assert headers_for_config(("*", *CREDENTIALS), sent) == {}


def test_a_header_says_nothing_that_only_a_server_may_say() -> None:
    names = (b"thread_id", b"checkpoint_id", b"langgraph_auth_user", b"Langgraph_Auth_User_Id", b"__pregel_resuming")
    assert headers_for_config(("*",), [(name, b"mine") for name in names]) == {}


def test_headers_of_one_name_are_one() -> None:
    assert headers_for_config(("x-a",), [(b"x-a", b"1"), (b"x-b", b"2"), (b"X-A", b"3 \xe9")]) == {"x-a": "1, 3 \xe9"}


def test_many_stars_take_no_time() -> None:
    assert headers_for_config(("*a" * 100 + "b",), [(b"a" * 8_000, b"1")]) == {}


def read(folder: Path, text: str = "", **environ: str) -> tuple[str, ...]:
    (folder / "trackside.toml").write_text(text)
    return load_settings(environ=environ, folder=folder).server.configurable_headers


def test_settings_name_them(tmp_path: Path) -> None:
    assert read(tmp_path) == ()
    assert read(tmp_path, '[server]\nconfigurable_headers = ["X-A", "!x-b*", "x-a"]\n') == ("x-a", "!x-b*")
    assert read(tmp_path, TRACKSIDE_SERVER_CONFIGURABLE_HEADERS="x-a, !x-b") == ("x-a", "!x-b")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("1", "1 is not a list of names of headers"),
        ('["x a"]', "'x a' is not the name of a header"),
        ('["x-[ab]"]', "'x-[ab]' is not the name of a header"),
        ('["!"]', "'!' is not the name of a header"),
        ("[1]", "1 is not the name of a header"),
        ('["Authorization"]', "'authorization' proves who the caller is, which never goes into a run's config"),
    ],
)
def test_what_names_none_is_refused(value: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, f"[server]\nconfigurable_headers = {value}\n")
    assert why in str(refused.value)
    assert "server.configurable_headers" in str(refused.value)
