"""Settings of a fleet: engine, pools, worker. A mistake is one line, and shows no secret."""

import importlib.util
from pathlib import Path

import pytest

from trackside.app.settings import EngineSettings, Settings, SettingsError, WorkerSettings, load_settings
from trackside.app.storage._databases.backends import is_postgres
from trackside.app.wiring.system import system_sources

POSTGRES = "postgresql://trackside@db/trackside"


def load(folder: Path, toml: str = "", environ: dict[str, str] | None = None, **flags: str) -> Settings:
    (folder / "trackside.toml").write_text(toml, encoding="utf-8")
    named = {key.replace("__", "."): value for key, value in flags.items()}
    return load_settings(named, environ={"TRACKSIDE_DATABASE_URL": POSTGRES, **(environ or {})}, folder=folder)


def test_without_anything_a_process_executes_what_it_admits(tmp_path: Path) -> None:
    settings = load(tmp_path)

    assert (settings.engine, settings.worker) == (EngineSettings(), WorkerSettings())
    assert (settings.engine_kind, settings.pool_of("chat"), settings.drain_seconds) == ("inline", "default", 10.0)


@pytest.mark.parametrize(
    ("url", "kind", "servers"),
    [
        ("inline", "inline", ()),
        ("Postgres", "postgres", ()),
        ("nats://nats:4222", "nats", ("nats://nats:4222",)),
        ("tls://a.example", "nats", ("tls://a.example",)),
        ("nats://a:4222, nats://[::1]:4223", "nats", ("nats://a:4222", "nats://[::1]:4223")),
    ],
)
def test_the_engine_is_known_by_its_address(tmp_path: Path, url: str, kind: str, servers: tuple[str, ...]) -> None:
    engine = load(tmp_path, f'[engine]\nurl = "{url}"').engine

    assert (engine.kind, engine.servers) == (kind, servers)


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    toml = '[engine]\nurl = "postgres"\n[worker]\npools = ["a"]\nconcurrency = 2\n'
    environ = {"TRACKSIDE_ENGINE_URL": "nats://nats", "TRACKSIDE_WORKER_POOLS": "b, c"}

    in_file = load(tmp_path, toml)
    in_environment = load(tmp_path, toml, environ)
    by_flag = load(tmp_path, toml, environ, engine__url="inline", worker__pools="d,e", worker__memory_limit="1KB",
                   worker__isolation="process", worker__port="0", worker__drain="5m")  # fmt: skip

    assert (in_file.engine_kind, in_file.worker.pools, in_file.worker.concurrency) == ("postgres", ("a",), 2)
    assert (in_environment.engine_kind, in_environment.worker.pools) == ("nats", ("b", "c"))
    assert by_flag.engine_kind == "inline"
    assert by_flag.worker == WorkerSettings(
        pools=("d", "e"), concurrency=2, isolation="process", memory_limit=1024, port=0, drain=300.0
    )
    assert by_flag.drain_seconds == 300.0
    assert by_flag.sources["worker.pools"] == "--pool"


def test_agents_have_pools_in_the_file_and_in_the_environment(tmp_path: Path) -> None:
    toml = '[agents]\nchat = "a.py:b"\ndraw = "a.py:c"\nadd = "a.py:d"\n[pools]\nchat = "gpu"\n'

    settings = load(tmp_path, toml, {"TRACKSIDE_POOLS_DRAW": "paint"})

    assert [settings.pool_of(name) for name in ("chat", "draw", "add")] == ["gpu", "paint", "default"]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[engine]\nurl = "rabbit"', "engine.url: 'rabbit' is not an engine; write \"inline\", \"postgres\""),
        ('[engine]\nurl = "nats:4222"', "engine.url: 'nats:4222' is not an engine"),
        ('[engine]\nurl = "nats://"', "engine.url: 'nats://' is not an engine"),
        ('[engine]\nurl = "nats://a:99999"', "engine.url: 'nats://a:99999' is not an engine"),
        ('[engine]\nurl = "nats://a,http://b"', "engine.url: 'nats://a,http://b' is not an engine"),
        ('[engine]\nurl = "postgresql://db/x"', 'belongs under [database]; the engine that uses it is "postgres"'),
        ("[engine]\nurl = 3", "engine.url: 3 is not a text"),
        ('[engine]\nlease = "10ms"', "engine.lease: '10ms' is not a time from 1s to 10m"),
        ('[engine]\nagents_version = ""', "engine.agents_version: '' is not a version"),
        ('[engine]\nagents_version = "a\\nb"', "is not a version: a text of 1 to 128 characters on one line"),
        ('[engine]\ncredentials = "no.creds"', "engine.credentials: there is no file no.creds"),
        ('[engine]\nca = "."', "engine.ca: there is no file ."),
        ('[engine]\nca = ""', "engine.ca: '' is not the name of a file"),
        ('[engine]\nkey = "trackside.toml"', "engine.key: engine.certificate is missing, which belongs to it"),
        ('[engine]\nuri = "inline"', "unknown key engine.uri; did you mean engine.url?"),
        ('[pools]\nchat = "gpu"', "pools.chat: no agent is named 'chat'; those under [agents] are: none"),
        ('[agents]\nchat = "a.py:b"\n[pools]\nchat = "GPU one"', "pools.chat: 'GPU one' is not the name of a pool"),
        ('[agents]\nchat = "a.py:b"\n[pools]\nchat = ["gpu"]', "pools.chat: ['gpu'] is not the name of a pool"),
        ("[worker]\npools = []", "worker.pools: [] is not a list of pools"),
        ('[worker]\npools = ["a.b"]', "worker.pools: 'a.b' is not the name of a pool"),
        ("[worker]\nconcurrency = 0", "worker.concurrency: 0 is not a whole number from 1 up"),
        ("[worker]\nconcurrency = 20000", "worker.concurrency: 20,000 runs at once are too many for a process"),
        ('[worker]\nisolation = "docker"', "worker.isolation: 'docker' is not a kind of isolation; choose \"none\""),
        ("[worker]\nport = 70000", "worker.port: 70000 is not a port"),
        ('[worker]\nmemory_limit = "lots"', "worker.memory_limit: 'lots' is not a number of bytes"),
        ('[worker]\nmemory_limit = "1GB"', "worker.memory_limit: runs that share the worker's process share its memory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, toml: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, toml)

    assert str(caught.value).startswith("trackside.toml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("database", ["sqlite:///runs.db", None])
def test_a_fleet_is_refused_a_database_that_processes_cannot_share(tmp_path: Path, database: str | None) -> None:
    environ = {"TRACKSIDE_ENGINE_URL": "postgres"} | ({"TRACKSIDE_DATABASE_URL": database} if database else {})

    with pytest.raises(SettingsError, match="^TRACKSIDE_ENGINE_URL: a fleet needs PostgreSQL, and the database is sql"):
        load_settings(environ=environ, folder=tmp_path)


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "PostgreSQL", "postgresql+asyncpg", "postgresql+psycopg", "postgres+psycopg2"]
)
def test_a_fleet_has_a_database_for_whatever_driver_its_address_was_written(tmp_path: Path, scheme: str) -> None:
    settings = load(tmp_path, '[engine]\nurl = "postgres"', environ={"TRACKSIDE_DATABASE_URL": f"{scheme}://db/runs"})

    assert settings.is_postgres
    assert is_postgres(settings.database_url), "the store opens it as what the settings take it for"


def test_whoever_names_a_database_that_no_fleet_can_have_is_told_what_has_said_so(tmp_path: Path) -> None:
    """A variable wins over the file: a user with PostgreSQL in the file would look for the mistake where none is."""
    settings = '[database]\nurl = "postgresql://db/runs"\n[engine]\nurl = "postgres"\n'

    with pytest.raises(
        SettingsError, match=r"the database is sqlite:///runs\.db, as TRACKSIDE_DATABASE_URL says; name it"
    ):
        load(tmp_path, settings, environ={"TRACKSIDE_DATABASE_URL": "sqlite:///runs.db"})


def test_who_only_looks_into_another_database_needs_no_engine_for_it(tmp_path: Path) -> None:
    looking = load(tmp_path, '[engine]\nurl = "postgres"', database__url="sqlite:///copy.db")

    with pytest.raises(SettingsError, match="a fleet needs PostgreSQL"):
        looking.check_engine()


def test_who_uses_nats_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(tmp_path, engine__url="nats://bob:sesame@a")
    settings.check_engine()
    monkeypatch.setattr("trackside.app.settings.find_spec", lambda name: None)

    with pytest.raises(SettingsError) as caught:
        settings.check_engine()

    assert str(caught.value) == (
        "--engine: nats://bob:…@a needs nats-py, which is not installed: pip install 'trackside[nats]'."
    )
    assert importlib.util.find_spec("nats") is not None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://bob:sesame@a:4222", "nats://bob:…@a:4222"),
        ("tls://sesame@a", "tls://…@a"),
        ("nats://sesame@a,tls://bob:sesame@b", "nats://…@a,tls://bob:…@b"),
        ("nats://a", "nats://a"),
    ],
)
def test_an_address_is_shown_without_its_secret(tmp_path: Path, url: str, shown: str) -> None:
    settings = load(tmp_path, engine__url=url)

    assert settings.engine.shown == shown
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "nast://bob:sesame@a",
        "bob:sesame@a",
        "nats://bob:se,sesame@",
        "nats://bob:x@sesame@a:b",
        "postgres://u:sesame@a",
    ],
)
def test_an_address_that_is_none_is_shown_without_what_may_be_a_secret(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, engine__url=url)

    assert str(caught.value).startswith("--engine: ")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "project", "notes"),
    [
        ('[server]\nauth = "keys"\nhosts = ["a.example"]', "", ("server.hosts has no effect: server.auth is keys",)),
        ('[server]\nhosts = ["a.example"]', "", ()),
        (
            '[server]\nmiddleware_order = "auth_first"',
            "",
            ("server.middleware_order has no effect: server.app is not set",),
        ),
        ('[server]\napp = "web.py:app"\nmiddleware_order = "auth_first"', "", ()),
        ('[worker]\nhost = "0.0.0.0"', "", ("worker.host has no effect: worker.port is not set",)),
        ('[worker]\nhost = "0.0.0.0"\nport = 8080', "", ()),
        ("", '{"graphs": {}, "dependencies": ["."], "http": {"middleware_order": "auth_first"}}', ()),
    ],
)
def test_what_is_set_and_counts_for_nothing_beside_others_is_said(
    tmp_path: Path, text: str, project: str, notes: tuple[str, ...]
) -> None:
    if project:
        (tmp_path / "langgraph.json").write_text(project)

    assert load(tmp_path, text).notes == notes


def test_files_of_the_engine_are_where_the_settings_are(tmp_path: Path) -> None:
    (tmp_path / "nats.creds").touch()

    settings = load(tmp_path, '[engine]\nurl = "nats://a"\ncredentials = "nats.creds"')
    unheard = load(tmp_path, '[engine]\nurl = "postgres"\ncredentials = "nats.creds"')

    assert settings.engine.credentials == tmp_path / "nats.creds"
    assert (settings.notes, unheard.notes) == ((), ("engine.credentials has no effect: the engine is postgres",))


def test_a_file_of_the_engine_that_cannot_be_looked_at_is_said_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, f'[engine]\nurl = "nats://a"\nca = "{"a" * 300}"')

    assert "engine.ca" in str(caught.value)
    assert "aaa cannot be looked at: File name too long" in str(caught.value)


def test_what_a_server_says_of_its_settings_has_no_secret_of_the_engine(tmp_path: Path) -> None:
    toml = '[agents]\nchat = "a.py:b"\n[pools]\nchat = "gpu"\n'
    settings = load(tmp_path, toml, engine__url="nats://sesame@a,nats://bob:sesame@b")

    shown = {key: setting.value for key, setting in system_sources(settings).settings.items()}

    assert (shown["engine.url"], shown["pools.chat"]) == ("nats://…@a,nats://bob:…@b", "gpu")
    assert shown["worker.pools"] == ["default"]
