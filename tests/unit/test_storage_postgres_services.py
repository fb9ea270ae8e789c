"""Services of PostgreSQL's library: which file they are looked for in, and what they say that an address does not."""

from pathlib import Path

import pytest
from tests.unit.libpq_settings import forget_variables, write_services

from trackside.app.storage._databases.postgres.connections import PostgresDatabase
from trackside.app.storage._databases.postgres.url import PostgresAddress
from trackside.app.storage.errors import ConnectionSetupError


@pytest.fixture(autouse=True)
def no_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_variables(tmp_path, monkeypatch)


def test_a_service_has_what_the_address_does_not_say(tmp_path: Path) -> None:
    file = write_services(
        tmp_path / "services",
        " [ours] ",
        "  host=one,two",
        "port=5433",
        "user = you",
        "password=50%off: #1 = \\best",
        "dbname=theirs",
        "dbname=said too late",
        "# sslmode=disable",
        "sslmode=require",
        "application_name=mine",
        "options=-c search_path=agents",
        "keepalives=1",
    )
    address = PostgresAddress.from_url(f"postgresql:///runs?user=me&sslrootcert=ca&service=ours&servicefile={file}")

    found = address.resolved()

    assert (found.hosts, found.ports, found.user, found.database) == (("one", "two"), (5433,), "me", "runs")
    assert found.password == "50%off: #1 = \\best"
    assert dict(found.driver) == {"sslmode": "require", "sslrootcert": "ca"}
    assert dict(found.server) == {"application_name": "mine", "options": "-c search_path=agents"}
    assert found.resolved() == found
    assert address.conninfo == found.conninfo, "an older libpq looks into no file that is named"
    assert str(address) == "postgresql://me@/runs"


@pytest.mark.parametrize(
    ("lines", "hosts"),
    [
        (["hostaddr=10.0.0.9,10.0.0.8"], ("10.0.0.9", "10.0.0.8")),
        (["host=db", "hostaddr=10.0.0.9"], ("db",)),
    ],
)
def test_a_service_that_says_an_ip_address_alone_leads_there(
    lines: list[str], hosts: tuple[str, ...], tmp_path: Path
) -> None:
    file = write_services(tmp_path / "services", "[ours]", *lines)
    assert PostgresAddress.from_url(f"postgresql://?service=ours&servicefile={file}").resolved().hosts == hosts


@pytest.mark.parametrize("where", ["address", "PGSERVICEFILE", "HOME", "PGSYSCONFDIR"])
@pytest.mark.parametrize("is_said", [True, False])
def test_where_a_service_is_looked_for(
    where: str, is_said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_services(tmp_path / ".pg_service.conf", "[ours]" if where == "HOME" else "[mine]", "dbname=HOME")
    monkeypatch.setenv("PGSYSCONFDIR", str(folder))
    write_services(folder / "pg_service.conf", "[ours]", "dbname=PGSYSCONFDIR")
    if where == "PGSERVICEFILE":
        monkeypatch.setenv(where, str(write_services(folder / "a", "[ours]", f"dbname={where}")))
    said = {"service": "ours"} if is_said else {}
    monkeypatch.setenv("PGSERVICE", "another" if is_said else "ours")
    if where == "address":
        monkeypatch.setenv("PGSERVICEFILE", str(folder / "pg_service.conf"))
        said["servicefile"] = str(write_services(folder / "b", "[ours]", f"dbname={where}"))

    address = PostgresAddress.from_url("postgresql://?" + "&".join(f"{name}={value}" for name, value in said.items()))

    assert address.resolved().database == where


async def test_a_service_that_is_in_no_file_is_no_other_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSYSCONFDIR", "/nowhere")
    write_services(tmp_path / ".pg_service.conf", "[prod]", "host=db")
    database = PostgresDatabase.from_url("postgresql://me:secret@/runs?service=prdo")

    with pytest.raises(ConnectionSetupError) as refused:
        await database.connect()

    assert f"no service 'prdo' in {tmp_path}/.pg_service.conf or /nowhere/pg_service.conf" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"), [(b"[ours]\nport=soon", "a port is a number.* 'soon'"), (b"[ours]\nuser=\xff", "cannot be read")]
)
def test_a_service_that_cannot_be_understood_is_refused(text: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / ".pg_service.conf").write_bytes(text)

    with pytest.raises(ConnectionSetupError, match=why):
        PostgresAddress.from_url("postgresql://?service=ours").resolved()
