"""Who may ask a server, according to the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from trackside.app.settings import AccessSettings, SettingsError, load_settings

WHOLE = """
[server]
host = "0.0.0.0"
auth = "jwt"
hosts = ["agents.local", "[::2]"]
origins = ["https://app.example.org", "http://10.0.0.7:3000"]
rate = "100/second"
max_streams = 20
item_kinds = ["memories", "users"]
jwt_key = "env:KEY"
jwt_issuer = "https://id.example.org/"
jwt_audience = "trackside"
jwt_algorithms = ["RS256", "ES256"]
jwt_owner = "email"
jwt_permission = "scope"
"""


def load(folder: Path, text: str = "", **environ: str) -> AccessSettings:
    (folder / "trackside.toml").write_text(text)
    return load_settings(environ=environ, folder=folder).access


def test_nobody_is_asked_unless_it_is_said(tmp_path: Path) -> None:
    assert load(tmp_path) == AccessSettings()
    assert AccessSettings().auth == "none"


def test_all_of_it_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, WHOLE) == AccessSettings(
        auth="jwt",
        hosts=("agents.local", "[::2]"),
        origins=("https://app.example.org", "http://10.0.0.7:3000"),
        rate="100/second",
        max_streams=20,
        item_kinds=("memories", "users"),
        jwt_key="env:KEY",
        jwt_issuer="https://id.example.org/",
        jwt_audience="trackside",
        jwt_algorithms=("RS256", "ES256"),
        jwt_owner="email",
        jwt_permission="scope",
    )


def test_variables_have_lists_with_commas(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        TRACKSIDE_SERVER_AUTH="auth.py:authenticate",
        TRACKSIDE_SERVER_ORIGINS="https://a.example, https://b.example",
        TRACKSIDE_SERVER_MAX_STREAMS="7",
    )
    assert found.auth == "auth.py:authenticate"
    assert found.origins == ("https://a.example", "https://b.example")
    assert found.max_streams == 7


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("https://App.Example.org", "https://app.example.org"),
        ("HTTPS://app.example.org:443", "https://app.example.org"),
        ("http://app.example.org:80", "http://app.example.org"),
        ("http://app.example.org:443", "http://app.example.org:443"),
        ("https://[FD00:0::5]:8443", "https://[fd00::5]:8443"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("Chrome-Extension://AbC", "chrome-extension://AbC"),  # not the name of a host: it stays as it is
        ("*", "*"),
    ],
)
def test_an_origin_is_read_as_browsers_say_it(tmp_path: Path, typed: str, meant: str) -> None:
    assert load(tmp_path, f'[server]\norigins = ["{typed}"]').origins == (meant,)


@pytest.mark.parametrize(
    ("typed", "meant"), [("Agents.Local", "agents.local"), ("[FD00:0::5]", "[fd00::5]"), ("*", "*")]
)
def test_a_host_is_read_as_it_is_asked_for(tmp_path: Path, typed: str, meant: str) -> None:
    assert load(tmp_path, f'[server]\nhosts = ["{typed}"]').hosts == (meant,)


@pytest.mark.parametrize("auth", ["none", "keys", "jwt", "auth.py:authenticate", "package.module:auth"])
def test_ways_to_ask(tmp_path: Path, auth: str) -> None:
    assert load(tmp_path, f'[server]\nauth = "{auth}"').auth == auth


@pytest.mark.parametrize("rate", ["1/second", "100 per minute", "1000/5 minutes", "10/hour", "5/day"])
def test_every_rate_that_is_let_in_is_one(tmp_path: Path, rate: str) -> None:
    from trackside.app.server.rates import Rate

    said = load(tmp_path, f'[server]\nrate = "{rate}"').rate
    assert said is not None
    assert Rate(said).amount > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auth", '"basic"'),
        ("auth", '""'),
        ("auth", "true"),
        ("auth", '":x"'),
        ("rate", '"fast"'),
        ("rate", '"0/second"'),
        ("rate", "100"),
        ("rate", '"1/fortnight"'),
        ("max_streams", "0"),
        ("item_kinds", '["a.b"]'),
        ("item_kinds", '["users", "*"]'),
        ("origins", '["app.example"]'),
        ("origins", '["https://app.example/path"]'),
        ("origins", '"https://user@app.example"'),
        ("origins", '["https://app.example:x"]'),
        ("origins", '["https://app.example:99999"]'),
        ("origins", '["https://:443"]'),
        ("origins", '["https://[::x]"]'),
        ("origins", '["https://bücher.example"]'),  # browsers call it xn--bcher-kva.example
        ("origins", '["https://*.app.example"]'),
        ("origins", "[1]"),
        ("origins", '[""]'),
        ("hosts", '["https://app.example"]'),
        ("hosts", '["app.example:8000"]'),
        ("hosts", '["fd00::5"]'),
        ("hosts", '["[:::]"]'),
        ("jwt_issuer", '""'),
        ("jwt_algorithms", "[1]"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"server\.{key}"):
        load(tmp_path, f"[server]\n{key} = {value}")


def test_no_message_has_a_key_in_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, "[server]\njwt_key = 12345678")
    assert "12345678" not in str(refused.value)
    assert "hunter2" not in repr(AccessSettings(jwt_key="hunter2"))
