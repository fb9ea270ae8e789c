"""Where events that a database could not take are kept: one folder for each database, and never another's."""

import os
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from trackside.app.settings import Settings, SettingsError, load_settings
from trackside.app.spool._file import SpoolFile
from trackside.app.spool._records import encode, waiting
from trackside.app.spool.standing import left_in
from trackside.app.wiring.spooling import ends_elsewhere, spool_folder, spools_elsewhere
from trackside.testing import make_run


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment says where a database is."""
    for variable in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGOPTIONS"):
        monkeypatch.delenv(variable, raising=False)


def test_it_is_beside_an_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert spool_folder(Settings()) == tmp_path / "trackside.db-spool"
    assert spool_folder(Settings(database_url="sqlite:////data/runs.db")) == Path("/data/runs.db-spool")


def test_for_a_database_on_a_server_it_is_in_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database_url="postgresql://me:secret@db.example:5433/runs?sslmode=require")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    folder = spool_folder(settings)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")

    assert folder.parent == Path("/state/trackside/spool")
    assert folder.name.startswith("runs-")
    assert spool_folder(settings) == Path("/home/me/.local/state/trackside/spool") / folder.name


def test_it_stays_the_same_whoever_connects_and_however() -> None:
    urls = [
        "postgresql://me:old@db/runs",
        "postgresql://you:new@db/runs?sslmode=require",
        "postgres://db/runs",
        "postgresql+asyncpg://me@db/runs",
    ]

    assert len({spool_folder(Settings(database_url=url)) for url in urls}) == 1


def test_what_an_address_says_in_its_query_is_no_other_database_than_what_it_says_in_front() -> None:
    urls = [
        "postgresql://db:5433/runs",
        "postgresql://other/runs?host=db:5433",
        "postgresql:///runs?host=db&port=5433",
        "postgresql://db:5433/?dbname=runs&application_name=mine&options=-c jit=off",
    ]

    assert len({spool_folder(Settings(database_url=url)) for url in urls}) == 1


@pytest.mark.parametrize(
    "address",
    ["db/runs", "db.example:5433/runs", "one:5432,two:5433/runs", "[::1]:5433/runs", "%2Frun%2Fpg/runs", "/runs"],
)
def test_its_name_stays_from_version_to_version(address: str) -> None:
    folder = spool_folder(Settings(database_url=f"postgresql://me:secret@{address}?sslmode=require"))

    assert folder.name == f"runs-{sha256(address.encode()).hexdigest()[:12]}"


def test_folders_whose_names_are_not_utf8_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for name in (b"caf\xe9", b"caf\xe8", b"caf"):
        here = tmp_path / os.fsdecode(name)
        here.mkdir()
        monkeypatch.chdir(here)
        found.add(spool_folder(Settings(database_spool="/spools")))

    assert len(found) == 3
    assert {folder.parent for folder in found} == {Path("/spools")}


def test_two_databases_never_share_one() -> None:
    urls = [
        "postgresql://a/runs",
        "postgresql://b/runs",
        "postgresql://a:5433/runs",
        "postgresql://a/runs?port=5434",
        "postgresql://a/other",
        "postgresql://a/?dbname=third",
        "postgresql:///runs?host=/run/eu",
        "postgresql:///runs?host=/run/us",
        "postgresql:///runs?service=eu",
        "postgresql:///runs?service=us",
        "postgresql://a/runs?search_path=one",
        "postgresql://a/runs?search_path=two",
        "postgresql://a/runs?options=-c search_path=three",
        "postgresql://me@a/",
        "postgresql://you@a/",
        "sqlite:///runs.db",
        "sqlite:////runs.db",
    ]

    assert len({spool_folder(Settings(database_url=url, database_spool="/spool")) for url in urls}) == len(urls)


@pytest.mark.parametrize("variable", ["PGHOST", "PGPORT", "PGDATABASE", "PGSERVICE"])
def test_what_an_address_leaves_to_the_environment_tells_databases_apart(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folders() -> tuple[Path, ...]:
        urls = ("postgresql://", "postgresql://db:5432/runs?service=mine")
        return tuple(spool_folder(Settings(database_url=url)) for url in urls)

    monkeypatch.setenv(variable, "1111")
    one = folders()
    monkeypatch.setenv(variable, "2222")
    two = folders()

    assert one[0] != two[0]
    assert one[1] == two[1], "it leaves nothing to it"


def test_a_schema_that_the_environment_chooses_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def folders() -> tuple[Path, ...]:
        urls = ("db/runs", "db/runs?service=ours", "db/runs?options=-c search_path=a", "db/runs?search_path=a")
        return tuple(spool_folder(Settings(database_url=f"postgresql://{url}")) for url in urls)

    before = folders()
    monkeypatch.setenv("PGOPTIONS", "-c jit=off")
    without = folders()
    monkeypatch.setenv("PGOPTIONS", "-c search_path=b")
    chosen = folders()

    assert without == before
    assert len({*before, *chosen}) == len(before) + 2
    assert chosen[2:] == before[2:], "what the address says counts"


def test_an_address_that_is_none_has_one_all_the_same() -> None:
    """Code that looks around, as the doctor does, says what is wrong with the address."""
    folder = spool_folder(Settings(database_url="postgresql://db:none/runs", database_spool="/spool"))

    assert folder.parent == Path("/spool")


def test_no_name_of_a_database_leads_out_of_the_folder() -> None:
    for name in ("..", "a/b", "../../etc", "%2e%2e%2fx", "a b$c", "x" * 500):
        settings = Settings(database_url=f"postgresql://db/{name}", database_spool="/spool")

        folder = spool_folder(settings)

        assert folder.parent == Path("/spool")
        assert folder.resolve() == folder
        assert len(folder.name) < 100


def test_the_setting_names_the_folder_of_all(tmp_path: Path) -> None:
    settings = load_settings(environ={"TRACKSIDE_DATABASE_SPOOL": "~/spools"}, folder=tmp_path)

    assert spool_folder(settings).parent == Path("~/spools").expanduser()


def test_what_waits_for_a_server_at_another_address_is_told_from_what_a_process_has_in_hand(tmp_path: Path) -> None:
    def settings(address: str) -> Settings:
        return Settings(database_url=f"postgresql://{address}", database_spool=str(tmp_path / "all of them"))

    lost, lives, empty = (spool_folder(settings(address)) for address in ("db1/runs", "db2/runs", "db3/runs"))
    for folder in (lost, lives):
        file = SpoolFile.create(folder)
        file.append(encode(waiting(make_run("r"), datetime.now(UTC)))[1])
        if folder == lost:
            file.close()
    SpoolFile.create(empty).close()

    for here in ("restored", "db1,db4/runs"):
        assert [(one.folder, one.waiting) for one in spools_elsewhere(settings(here))] == [(lost, 1)]
        (said,) = ends_elsewhere(settings(here))
        assert f"`(cd '{lost.parent}' && if [ -d ./{spool_folder(settings(here)).name} ]; then " in said
    assert [*spools_elsewhere(settings("db1/runs"))] == []
    assert [*spools_elsewhere(Settings(database_url=f"sqlite:///{lost}.db"))] == [], "it is beside that file alone"
    file.close()


@pytest.mark.parametrize("is_there", [False, True])
def test_the_command_that_brings_what_waits_leaves_it_to_whose_it_is(tmp_path: Path, is_there: bool) -> None:
    """Root types it, under systemd: the server's user has to be able to use the folder and what is in it."""

    def settings(address: str) -> Settings:
        return Settings(database_url=f"postgresql://{address}/runs", database_spool=str(tmp_path / "all of 'them'"))

    lost, own = spool_folder(settings("db1")), spool_folder(settings("db2"))
    file = SpoolFile.create(lost)
    file.append(encode(waiting(make_run("r"), datetime.now(UTC)))[1])
    file.close()
    if is_there:
        SpoolFile.create(own).close()
        own.mkdir(exist_ok=True)
    (elsewhere,) = spools_elsewhere(settings("db2"))
    folder = (own if is_there else lost).stat()

    subprocess.run(["/bin/sh", "-c", elsewhere.bring], check=True)

    assert left_in(own) == 1
    assert own.stat().st_ino == folder.st_ino
    assert [path.suffix for path in own.iterdir() if path.is_dir()] == []
    assert [*spools_elsewhere(settings("db2"))] == []


def test_a_setting_that_names_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="^TRACKSIDE_DATABASE_SPOOL: '' is not the name of a folder"):
        load_settings(environ={"TRACKSIDE_DATABASE_SPOOL": ""}, folder=tmp_path)
