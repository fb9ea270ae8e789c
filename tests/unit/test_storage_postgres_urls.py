"""Addresses of PostgreSQL databases as people write them, decided without a server; a password is never repeated."""

import pytest

from trackside.app.settings import Settings
from trackside.app.storage._postgres import PostgresDatabase
from trackside.app.storage._postgres_url import PostgresAddress, without_password
from trackside.app.storage.errors import DatabaseUrlError, StoreOptionError


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2"]
)
def test_the_driver_in_front_does_not_matter(scheme: str) -> None:
    address = PostgresAddress.from_url(f"{scheme}://me:secret@db.example:5433/runs")

    assert (address.hosts, address.ports, address.database) == (("db.example",), (5433,), "runs")
    assert (address.user, address.password) == ("me", "secret")


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql:///runs", (), ()),
        ("postgresql://me@/runs?host=/var/run/postgresql", ("/var/run/postgresql",), ()),
        ("postgresql://%2Fvar%2Frun/runs", ("/var/run",), ()),
        ("postgresql://[::1]:5433/runs", ("::1",), (5433,)),
        ("postgresql://one,two:5433/runs", ("one", "two"), (5432, 5433)),
        ("postgresql://one,two/runs?port=5433", ("one", "two"), (5433, 5433)),
        ("postgresql:///runs?port=5433", ("localhost",), (5433,)),
        ("postgresql://db:5433/runs?host=other", ("other",), (5433,)),
        ("postgresql://:5433/runs?host=/run/sockets", ("/run/sockets",), (5433,)),
        ("postgresql://db:5433/runs?host=one,two", ("one", "two"), (5433, 5433)),
        ("postgresql://one:5433,two:5434/runs?host=three,four", ("three", "four"), (5433, 5434)),
        ("postgresql://db:5433/runs?host=other:5434", ("other",), (5434,)),
        ("postgresql://db:5433/runs?host=other&port=5435", ("other",), (5435,)),
    ],
)
def test_places(url: str, hosts: tuple[str, ...], ports: tuple[int, ...]) -> None:
    address = PostgresAddress.from_url(url)

    assert (address.hosts, address.ports) == (hosts, ports)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@[::1]:5433/runs",
        "postgresql://one:5432,two:5433/runs",
        "postgresql://me@%2Fvar%2Frun/my%20runs",
    ],
)
def test_an_address_is_shown_as_one_that_leads_there(url: str) -> None:
    assert str(PostgresAddress.from_url(url)) == url


@pytest.mark.parametrize(
    ("url", "environment", "target"),
    [
        ("postgresql://one,two/runs", {}, "primary"),
        ("postgresql:///runs", {"PGHOST": "one,two"}, "primary"),
        ("postgresql://one/runs", {"PGHOST": "one,two"}, None),
        ("postgresql:///runs", {}, None),
        ("postgresql://one,two/runs?target_session_attrs=any", {}, None),
        ("postgresql://one,two/runs", {"PGTARGETSESSIONATTRS": "any"}, None),
        ("postgresql:///runs?service=ours", {"PGHOST": "one,two"}, None),
        ("postgresql://one,two/runs", {"PGSERVICE": "ours"}, None),
    ],
)
def test_which_of_several_hosts_is_meant(
    url: str, environment: dict[str, str], target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGSERVICE", "PGTARGETSESSIONATTRS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert PostgresAddress.from_url(url).target == target


@pytest.mark.parametrize("password", ["p@ss", "a:b", "#%zz", "ü €", "x" * 200])
def test_passwords_with_special_characters(password: str) -> None:
    assert PostgresAddress.from_url(f"postgresql://me:{password}@host/runs").password == password


def test_passwords_may_be_quoted_and_stand_behind() -> None:
    assert PostgresAddress.from_url("postgresql://me:a%2Fb%40c@host/runs").password == "a/b@c"
    assert PostgresAddress.from_url("postgresql://me@host/runs?password=a%26b").password == "a&b"


def test_options_go_where_they_belong() -> None:
    address = PostgresAddress.from_url(
        "postgresql://host/runs?sslmode=require&application_name=mine&search_path=agents&connect_timeout=3"
    )

    assert address.driver == (("sslmode", "require"),)
    assert address.server == (("application_name", "mine"), ("search_path", "agents"))
    assert address.connect_timeout == 3


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://me:sec/ret@host/runs", "%2F"),
        ("postgresql://me:sec?ret=1@host/runs", "%3F"),
        ("postgresql://me:secret@host:0/runs", "port"),
        ("postgresql://me:secret@host:99999/runs", "port"),
        ("postgresql://me:secret@one,two/runs?port=1,2,3", "number of ports"),
        ("postgresql://me:secret@host/runs?ssl_mode=require", "unknown option 'ssl_mode'"),
        ("postgresql://me:secret@host/runs?sslmode=maybe", "verify-full"),
        ("postgresql://me:secret@host/runs?connect_timeout=soon", "connect_timeout"),
        ("postgresql://me@host/runs?password=secret&x=1", "unknown option 'x'"),
    ],
)
def test_what_cannot_be_understood_is_refused_without_the_password(url: str, why: str) -> None:
    with pytest.raises(DatabaseUrlError, match=why) as refused:
        PostgresDatabase.from_url(url)

    assert "ret" not in str(refused.value)
    assert "ret" not in repr(refused.value.details)


def test_a_database_is_shown_without_its_password() -> None:
    database = PostgresDatabase.from_url("postgresql+psycopg://me:secret@host:5433/runs?sslpassword=hidden")

    assert str(database) == "postgresql://me@host:5433/runs"
    assert "secret" not in repr(database)
    assert "hidden" not in repr(database)


@pytest.mark.parametrize("show", [without_password, lambda url: Settings(database_url=url).database_shown])
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/runs", "postgresql://me:…@host:5432/runs"),
        ("postgresql://me:se@cr/et@host/runs", "postgresql://me:…@host/runs"),
        ("postgresql://me@host/runs?password=secret&x=1", "postgresql://me@host/runs?password=…&x=1"),
        ("postgresql://host:5432/runs", "postgresql://host:5432/runs"),
        ("sqlite:///runs.db", "sqlite:///runs.db"),
    ],
)
def test_urls_are_shown_without_passwords(show, url: str, shown: str) -> None:
    assert show(url) == shown


@pytest.mark.parametrize(
    "option", [{"synchronous": "EXTRA"}, {"synchronous": "off"}, {"busy_timeout": 0}, {"busy_timeout": "5"}]
)
def test_an_option_that_postgres_does_not_have_is_refused(option: dict) -> None:
    with pytest.raises(StoreOptionError, match=f"{next(iter(option))}.*PostgreSQL"):
        PostgresDatabase.from_url("postgresql:///runs", **option)


def test_libpq_takes_an_address_as_names_and_values() -> None:
    url = (
        "postgresql+asyncpg://me:it's a \\ secret@one,two:5433/my runs?search_path=a, b&options=-c jit=off&ssl=require"
    )

    assert PostgresAddress.from_url(url).conninfo == (
        r"host='one,two' port='5432,5433' user='me' password='it\'s a \\ secret' dbname='my runs' connect_timeout='10' "
        r"sslmode='require' options='-c jit=off -c search_path=a,\\ b'"
    )
    assert PostgresAddress.from_url("postgresql:///runs").conninfo == "dbname='runs' connect_timeout='10'"
