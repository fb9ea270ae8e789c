"""Addresses of PostgreSQL databases as people write them, decided without a server; a password is never repeated."""

import asyncio
from pathlib import Path

import pytest
from tests.unit.libpq_settings import forget_variables, write_services

from trackside.app.settings import Settings
from trackside.app.storage._databases.postgres.connections import PostgresDatabase
from trackside.app.storage._databases.postgres.url import PostgresAddress, without_password
from trackside.app.storage.errors import ConnectionSetupError, DatabaseUrlError, StoreOptionError


@pytest.fixture(autouse=True)
def no_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_variables(tmp_path, monkeypatch)


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
        ("postgresql:///runs?service=any", {"PGHOST": "one,two"}, None),
        ("postgresql://one,two/runs", {"PGSERVICE": "any"}, None),
        ("postgresql:///runs?service=two", {"PGHOST": "one"}, "primary"),
        ("postgresql://one/runs", {"PGSERVICE": "two"}, None),
    ],
)
def test_which_of_several_hosts_is_meant(
    url: str, environment: dict[str, str], target: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_services(tmp_path / ".pg_service.conf", "[any]", "target_session_attrs=any", "[two]", "host=one,two")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert PostgresAddress.from_url(url).resolved().target == target


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", "-c jit=on"),
        ("service=plain", "-c jit=on"),
        ("service=ours", "-c search_path=a"),
        ("service=ours&options=-c jit=off", "-c jit=off"),
        ("options=", ""),
    ],
)
def test_options_of_the_environment_count_where_nothing_else_says_any(
    query: str, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c jit=on")
    write_services(tmp_path / ".pg_service.conf", "[plain]", "host=db", "[ours]", "options=-c search_path=a")

    assert dict(PostgresAddress.from_url(f"postgresql://?{query}").resolved().server)["options"] == options


def test_libpq_gets_the_options_of_the_environment_beside_a_search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c role=runs")

    assert "options='-c role=runs -c search_path=a'" in PostgresAddress.from_url("postgresql://?search_path=a").conninfo
    assert "options" not in PostgresAddress.from_url("postgresql://").conninfo, "it looks there by itself"


@pytest.mark.parametrize("option", ["sslrootcert", "sslcrl", "sslcert"])
@pytest.mark.parametrize("is_said", [True, False])
async def test_a_certificate_that_is_not_there_is_named(
    option: str, is_said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = f"&{option}=/nowhere/a.crt" if is_said else ""
    if not is_said:
        monkeypatch.setenv(f"PG{option.upper()}", "/nowhere/a.crt")
    database = PostgresDatabase.from_url(f"postgresql://127.0.0.1:1/runs?sslmode=verify-full{query}")

    with pytest.raises(ConnectionSetupError, match=f"no file /nowhere/a.crt, which is its {option}"):
        await database.connect()


def test_files_that_an_address_names_are_looked_for_where_the_process_worked_when_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = "sslrootcert=certs/ca.crt&service=ours&servicefile=services"
    Path("services").write_text("[ours]\ndbname=theirs\n", encoding="utf-8")
    database = PostgresDatabase.from_url(f"postgresql://127.0.0.1:1?sslmode=verify-full&{named}")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")

    assert database.address.resolved().database == "theirs"
    with pytest.raises(ConnectionSetupError, match=f"no file {tmp_path}/certs/ca.crt, which is its sslrootcert"):
        asyncio.run(database.connect())


async def test_a_certificate_that_nobody_asks_for_may_be_missing() -> None:
    database = PostgresDatabase.from_url("postgresql://127.0.0.1:1/runs?sslmode=prefer&sslrootcert=/nowhere/ca.crt")

    with pytest.raises(ConnectionRefusedError):
        await database.connect()


@pytest.mark.parametrize("password", ["p@ss", "a:b", "#%zz", "ü €", "x" * 200])
def test_passwords_with_special_characters(password: str) -> None:
    assert PostgresAddress.from_url(f"postgresql://me:{password}@host/runs").password == password


PASSED_OVER = [
    "keepalives=1",
    "keepalives_idle=30",
    "tcp_user_timeout=10000",
    "client_encoding=utf8",
    "fallback_application_name=psql",
    "sslsni=1",
    "sslcompression=0",
    "load_balance_hosts=random",
    "channel_binding=prefer",
    "gssencmode=disable",
    "sslcertmode=allow",
    "min_protocol_version=3.0",
    "require_auth=",
]
REFUSED = [
    ("channel_binding=require", "channel_binding=require asks for a protection that the driver does not offer"),
    ("gssencmode=require", "gssencmode=require asks for a protection"),
    ("sslcertmode=require", "sslcertmode=require asks for a protection"),
    ("min_protocol_version=3.2", "min_protocol_version=3.2 asks for a protection"),
    ("require_auth=scram-sha-256", "require_auth=scram-sha-256 asks for a protection"),
    ("requirepeer=postgres", "requirepeer=postgres asks for a protection"),
    ("sslcrldir=/etc/crl", "sslcrldir=/etc/crl asks for a protection"),
    ("replication=database", "replication asks for something that the driver cannot do"),
    ("scram_client_key=secret", "scram_client_key asks for something that the driver cannot do"),
    ("oauth_client_secret=secret", "oauth_client_secret asks for something"),
    ("sslmode=maybe", "sslmode is one of disable, .*verify-full"),
    ("connect_timeout=soon", "connect_timeout is a whole number of seconds"),
    ("connect_timeout=" + "9" * 5000, "connect_timeout is a whole number of seconds, of up to 9 digits"),
    ("connect_timeout=-" + "9" * 5000, "connect_timeout is a whole number of seconds, of up to 9 digits"),
    ("statement_timeout=1", "unknown option 'statement_timeout'"),
]


def service_with(option: str, folder: Path) -> PostgresAddress:
    file = write_services(folder / "services", "[ours]", "host=db", option)
    return PostgresAddress.from_url(f"postgresql://?service=ours&servicefile={file}")


@pytest.mark.parametrize("option", PASSED_OVER)
def test_an_option_of_libpqs_that_means_nothing_here_is_passed_over_wherever_it_stands(
    option: str, tmp_path: Path
) -> None:
    plain = PostgresAddress.from_url("postgresql://db")

    assert PostgresAddress.from_url(f"postgresql://db?{option}") == plain
    assert service_with(option, tmp_path).resolved() == plain


@pytest.mark.parametrize(("option", "why"), REFUSED)
def test_an_option_that_cannot_be_heeded_is_refused_wherever_it_stands(option: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseUrlError, match=why) as in_address:
        PostgresAddress.from_url(f"postgresql://db?{option}")
    with pytest.raises(ConnectionSetupError, match=f"in its service .*{why}") as in_service:
        service_with(option, tmp_path).resolved()

    assert "=secret" not in str(in_address.value) + str(in_service.value)


def test_a_search_path_in_a_service_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ConnectionSetupError, match=r"in its service search_path cannot be in a file of libpq's"):
        service_with("search_path=agents", tmp_path).resolved()


@pytest.mark.parametrize(
    ("variable", "why"),
    [("CHANNELBINDING=require", "asks for a protection"), ("CONNECT_TIMEOUT=soon", "whole number of seconds")],
)
def test_a_variable_that_cannot_be_heeded_is_named(variable: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(f"PG{name}", value)

    with pytest.raises(ConnectionSetupError, match=f"PG{name}.*{why}"):
        PostgresAddress.from_url("postgresql://db").resolved()


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql:///runs?hostaddr=10.0.0.9", ("10.0.0.9",), ()),
        ("postgresql://:5433/runs?hostaddr=10.0.0.9,10.0.0.8", ("10.0.0.9", "10.0.0.8"), (5433, 5433)),
        ("postgresql:///runs?hostaddr=fe80::1&port=5433", ("fe80::1",), (5433,)),
        ("postgresql://db:5433/runs?hostaddr=10.0.0.9", ("db",), (5433,)),
        ("postgresql:///runs?host=db&hostaddr=10.0.0.9", ("db",), ()),
    ],
)
def test_an_address_that_says_an_ip_address_alone_leads_there(
    url: str, hosts: tuple[str, ...], ports: tuple[int, ...]
) -> None:
    address = PostgresAddress.from_url(url)

    assert (address.hosts, address.ports) == (hosts, ports)


@pytest.mark.parametrize(
    ("said", "seconds"), [("", 5), ("&connect_timeout=3", 3), ("&connect_timeout=0", 5), ("&connect_timeout=-1", 5)]
)
def test_how_long_to_wait_is_said_by_the_address_or_a_service(said: str, seconds: float, tmp_path: Path) -> None:
    file = write_services(tmp_path / "services", "[ours]", "connect_timeout=5")
    address = PostgresAddress.from_url(f"postgresql://db?service=ours&servicefile={file}{said}")

    assert address.resolved().connect_timeout == seconds
    assert f"connect_timeout='{seconds}'" in address.conninfo


def test_how_long_to_wait_is_said_by_a_variable_or_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    address = PostgresAddress.from_url("postgresql://db?connect_timeout=0")
    assert address.resolved().connect_timeout == 10
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert address.resolved().connect_timeout == 4


@pytest.mark.parametrize(
    ("url", "environment", "hosts"),
    [
        ("postgresql:///runs", {}, ("10.0.0.9", "10.0.0.8")),
        ("postgresql:///runs", {"PGHOST": "db"}, ()),
        ("postgresql://db/runs", {}, ("db",)),
        ("postgresql:///runs?hostaddr=10.0.0.7", {}, ("10.0.0.7",)),
        ("postgresql:///runs?service=ours", {}, ("theirs",)),
        ("postgresql:///runs?service=plain", {}, ("10.0.0.9", "10.0.0.8")),
    ],
)
def test_ip_addresses_that_a_variable_says_lead_there_where_nothing_else_says_a_host(
    url: str, environment: dict[str, str], hosts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_services(tmp_path / ".pg_service.conf", "[ours]", "host=theirs", "[plain]", "user=me")
    monkeypatch.setenv("PGHOSTADDR", "10.0.0.9,10.0.0.8")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert PostgresAddress.from_url(url).resolved().hosts == hosts


def test_databases_at_two_ip_addresses_that_a_variable_says_are_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    places = set()
    for address in ("10.0.0.9", "10.0.0.8"):
        monkeypatch.setenv("PGHOSTADDR", address)
        places.add(PostgresAddress.from_url("postgresql:///runs").place)
        assert PostgresAddress.from_url("postgresql://db/runs").place == "db/runs"

    assert len(places) == 2


def test_libpq_does_not_go_to_the_ip_address_of_a_variable_where_a_host_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "10.0.0.9")

    assert "host='db' hostaddr=''" in PostgresAddress.from_url("postgresql://db/runs").resolved().conninfo
    assert "host='10.0.0.9' hostaddr=''" in PostgresAddress.from_url("postgresql:///runs").resolved().conninfo
    assert "host" not in PostgresAddress.from_url("postgresql:///runs").conninfo, "it looks there by itself"


@pytest.mark.parametrize(
    ("url", "lines"),
    [
        ("postgresql://db/runs?channel_binding=disable&gssencmode=", ["user=me"]),
        ("postgresql://db/runs?service=ours", ["channel_binding=prefer", "gssencmode=disable"]),
        (
            "postgresql://db/runs?service=ours&channel_binding=disable&gssencmode=disable&sslmode=require",
            ["channel_binding=require", "gssencmode=require", "sslmode=maybe"],
        ),
    ],
)
def test_what_cannot_be_heeded_of_a_service_or_a_variable_may_be_said_otherwise(
    url: str, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_services(tmp_path / ".pg_service.conf", "[ours]", *lines)
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    monkeypatch.setenv("PGGSSENCMODE", "require")

    found = PostgresAddress.from_url(url).resolved()

    assert found.hosts == ("db",)
    assert found.resolved() == found


@pytest.mark.parametrize(("said", "seconds"), [("connect_timeout=3", 3), ("service=ours", 5)])
def test_how_long_to_wait_by_a_variable_does_not_matter_where_it_is_said(
    said: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_services(tmp_path / ".pg_service.conf", "[ours]", "connect_timeout=5")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "soon")

    assert PostgresAddress.from_url(f"postgresql://db?{said}").resolved().connect_timeout == seconds
    with pytest.raises(ConnectionSetupError, match="PGCONNECT_TIMEOUT is a whole number of seconds"):
        PostgresAddress.from_url("postgresql://db?connect_timeout=0").resolved()


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
        (f"postgresql://me:secret@host:{'9' * 5000}/runs", "port"),
        ("postgresql://me:secret@one,two/runs?port=1,2,3", "more or fewer ports than hosts"),
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
