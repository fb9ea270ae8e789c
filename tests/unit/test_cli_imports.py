"""The command line imports what a command needs when it needs it."""

import subprocess
import sys


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in done.stderr.splitlines()} | set(done.stderr.splitlines())


def test_importing_the_command_line_loads_neither_its_commands_nor_what_they_need() -> None:
    loaded = loaded_after("import trackside.app.cli")

    assert not loaded & {"typer", "rich", "sqlalchemy", "alembic", "langgraph", "trackside.app.cli.commands"}


def test_help_and_version_load_no_database_and_no_framework() -> None:
    for option in ("--help", "--version"):
        loaded = loaded_after(f"from trackside.app.cli import main; main([{option!r}])")

        assert "typer" in loaded
        assert not loaded & {"sqlalchemy", "alembic", "sqlite3", "langgraph", "genai_prices", "trackside.app.storage"}


def test_a_usage_error_loads_no_database_either() -> None:
    assert not loaded_after("from trackside.app.cli import main; main(['run'])") & {"sqlalchemy", "langgraph"}
