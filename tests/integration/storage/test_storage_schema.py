"""New tables are what older ones become; migrations come with the package; processes may make tables at once."""

import sqlite3
import subprocess
import sys
import textwrap
import zipfile
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from prepared_databases import make_old_tables, make_tables
from sqlalchemy import create_engine

from trackside.app.storage import Store, _schema
from trackside.app.storage._rows.tables import metadata

ROOT = Path(__file__).parents[3]


def statements(path: Path) -> set[tuple[str, str]]:
    """The statements that made tables and indexes, with constraints, defaults, conditions and the order of columns."""
    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {(name, " ".join(sql.split())) for name, sql in made}


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def test_a_new_database_is_what_one_of_the_first_version_becomes(path: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.db"
    make_old_tables(f"sqlite:///{first}", "0001")
    for file in (first, path):
        make_tables(f"sqlite:///{file}")
    migrated = create_engine(f"sqlite:///{first}")
    with migrated.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    migrated.dispose()

    assert differences == []
    assert statements(path) == statements(first)
    assert rows(path, "alembic_version") == rows(first, "alembic_version") == [(_schema.REVISIONS[-1],)]
    # One counter is from an older version, and nothing reads it any more.
    assert rows(path, "counters") == [row for row in rows(first, "counters") if row[0] != "removals"] != []


def test_the_indexes_of_a_table_are_always_made_in_one_order(path: Path) -> None:
    make_tables(f"sqlite:///{path}")

    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        by_table = [(table, [name for _, name in of_table]) for table, of_table in groupby(made, itemgetter(0))]

    assert len(by_table) > 3
    assert all(names == sorted(names) for _, names in by_table), by_table


def test_the_listed_revisions_are_those_that_there_are() -> None:
    scripts = ScriptDirectory(str(_schema._MIGRATIONS))

    assert [script.revision for script in reversed(list(scripts.walk_revisions()))] == list(_schema.REVISIONS)


def test_the_wheel_contains_the_migrations(tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())

    here = ROOT / "src"
    needed = {str(file.relative_to(here)) for file in _schema._MIGRATIONS.rglob("*.py")}
    assert "trackside/app/storage/migrations/env.py" in needed
    assert needed <= packed


OPEN = textwrap.dedent("""
    import asyncio, sys
    from trackside.app.storage import Store

    async def main():
        async with Store.open(sys.argv[1]):
            pass

    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(main())
""")


def test_processes_that_make_one_database_at_once(url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", OPEN, url]
    openers = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(6)]
    for opener in openers:
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        opener.stdin.write("go\n")
        opener.stdin.flush()
    said = [opener.communicate()[1] for opener in openers]

    assert said == [""] * len(openers)
    assert [opener.returncode for opener in openers] == [0] * len(openers)


@pytest.mark.parametrize("is_new", [True, False])
async def test_opening_a_database_that_is_new_or_up_to_date_does_not_load_alembic(url: str, is_new: bool) -> None:
    if not is_new:
        async with Store.open(url):
            pass
    check = (
        OPEN.replace('print("ready", flush=True)\nsys.stdin.readline()\n', "") + "assert 'alembic' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", check, url], check=True)
