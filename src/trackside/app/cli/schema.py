"""The commands of `db`: of which version the tables are, bringing them up to date, what is wrong, giving space back."""

from __future__ import annotations

from dataclasses import asdict

from trackside.app.cli.failures import ExitCode
from trackside.app.cli.formatting import one_line
from trackside.app.cli.output import OutputConsole, standard_output
from trackside.app.settings import load_settings
from trackside.app.wiring import blaming

_DATABASE = "database.url"


def show_version(database: str | None, *, json: bool) -> ExitCode:
    """Show of which version the tables are."""
    from trackside.app.storage.maintenance import schema_version

    settings = load_settings({_DATABASE: database})
    with blaming(settings):
        version = schema_version(settings.database_url)
    console = standard_output()
    if json:
        console.print_json_lines([asdict(version)])
    elif version.found == version.known:
        console.print(f"{version.found} (up to date)")
    else:
        newer = "; a newer one made them: upgrade Trackside" if version.is_newer else ""
        console.print(f"{version.found or 'no tables yet'} (this Trackside works with {version.known}{newer})")
    return _written(console)


def upgrade(database: str | None) -> ExitCode:
    """Bring the tables up to date."""
    from trackside.app.storage.maintenance import upgrade_database

    settings = load_settings({_DATABASE: database})
    with blaming(settings):
        version = upgrade_database(settings.database_url)
    console = standard_output()
    if version.found == version.known:
        console.print(f"Nothing to do: the tables are of version {version.known}.")
    elif version.found is None:
        console.print(f"Made the tables, of version {version.known}.")
    else:
        console.print(f"Brought the tables from version {version.found} to {version.known}.")
    return _written(console)


def compact(database: str | None) -> ExitCode:
    """Give back the space that nothing fills."""
    from trackside.app.storage.maintenance import compact_database

    settings = load_settings({_DATABASE: database})
    with blaming(settings):
        compact_database(settings.database_url)
    console = standard_output()
    console.print("Done.")
    return _written(console)


def check(database: str | None, *, every: bool, json: bool) -> ExitCode:
    """Show what is wrong with the database, and tell it by the exit code."""
    from trackside.app.storage.maintenance import SAMPLE, check_database

    settings = load_settings({_DATABASE: database})
    with blaming(settings):
        findings = check_database(settings.database_url, sample=None if every else SAMPLE)
    console = standard_output()
    if json:
        console.print_json_lines([asdict(finding) for finding in findings])
    elif findings:
        for finding in findings:
            console.print(f"{finding.where}: {one_line(finding.what)}", soft_wrap=True)
    else:
        console.print("All is well.")
    written = _written(console)
    return ExitCode.error if findings else written


def _written(console: OutputConsole) -> ExitCode:
    console.check()
    return ExitCode.reader_gone if console.reader_gone else ExitCode.success
