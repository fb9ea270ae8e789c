"""The command line imports what a command needs only when it needs it."""

import subprocess
import sys
from pathlib import Path

OF_OBSERVERS = {
    "aiohttp",
    "apprise",
    "cloudevents",
    "nats",
    "openlineage",
    "opentelemetry",
    "prometheus_client",
    "redis",
    "standardwebhooks",
    "structlog",
}


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in done.stderr.splitlines()} | set(done.stderr.splitlines())


def test_importing_the_command_line_loads_neither_its_commands_nor_what_they_need() -> None:
    loaded = loaded_after("import trackside.app.cli")

    assert not loaded & {"typer", "rich", "sqlalchemy", "alembic", "langgraph", "trackside.app.cli.commands.parser"}


def test_help_and_version_load_no_database_and_no_framework() -> None:
    for option in ("--help", "--version"):
        loaded = loaded_after(f"from trackside.app.cli import main; main([{option!r}])")

        assert "typer" in loaded
        assert not loaded & {"sqlalchemy", "alembic", "sqlite3", "langgraph", "genai_prices", "trackside.app.storage"}


def test_a_usage_error_loads_no_database_either() -> None:
    assert not loaded_after("from trackside.app.cli import main; main(['run'])") & {"sqlalchemy", "langgraph"}


def test_no_package_of_an_observer_is_loaded_unless_one_is_configured_that_needs_it(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def echo(input): return input\n", encoding="utf-8")
    command = "from trackside.app.cli import main; main(['run', 'agents.py:echo', 'hi'])"
    run = f"import os; os.chdir({str(tmp_path)!r}); {command}"
    assert not loaded_after("import trackside") & {*OF_OBSERVERS, "trackside.app"}
    assert not loaded_after(run) & OF_OBSERVERS

    (tmp_path / "trackside.toml").write_text('[[observers]]\ntype = "logging"\n', encoding="utf-8")
    loaded = loaded_after(run)
    assert "trackside.app.observers.logging" in loaded
    assert not loaded & (OF_OBSERVERS - {"structlog"})


def test_what_a_character_by_name_is_compiled_with_is_there_before_a_command_begins() -> None:
    loaded = loaded_after(
        "commands = sys.modules['trackside.app.cli'] = type(sys)('trackside.app.cli')\n"
        "commands.main = lambda: None if 'unicodedata' in sys.modules else sys.exit('it is not')\n"
        "import trackside_command; trackside_command.main()"
    )
    assert "trackside_command" in loaded
