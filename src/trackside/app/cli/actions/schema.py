"""The commands of `db`: show the version of the tables, bring them up to date, check them, give space back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from trackside.app.cli.actions.asking import agrees, not_done
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import count, one_line
from trackside.app.cli.noticing import saying_waits
from trackside.app.cli.places import home_of
from trackside.app.cli.suggesting import suggest_at
from trackside.app.cli.views.output import standard_error, standard_output
from trackside.app.cli.views.progress import Progress
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import blaming
from trackside.harness.types import JsonObject

if TYPE_CHECKING:
    from trackside.app.storage.maintenance import SchemaVersion

_DATABASE = "database.url"
_MEANWHILE = (
    "Until that is done, servers and workers that are up start no run, and runs that end meanwhile may end as errors; "
    "the more is in the log, the longer it takes."
)


def show_version(database: str | None, *, json: bool) -> ExitCode:
    """Show which version the tables have."""
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
        todo = "; `trackside db upgrade` brings them up to date" if version.found else ""
        todo = "; a newer one made them: upgrade Trackside" if version.is_newer else todo
        said = f"{version.found or 'no tables yet'} (this Trackside works with {version.known}{todo})"
        console.print(suggest_at(home_of(settings).flags, said), soft_wrap=True)
    return ended(console)


def upgrade(database: str | None, *, yes: bool, dry_run: bool, json: bool) -> ExitCode:
    """Bring the tables up to date; if they contain events, only if the person at the terminal agrees."""
    from trackside.app.storage.maintenance import upgrade_database

    settings = load_settings({_DATABASE: database})
    console = standard_output()
    foreseen = _foreseen(settings)
    if dry_run:
        if json:
            console.print_json_lines([_upgrade_object(foreseen.version)])
        else:
            console.print(f"Would {foreseen.what}.", soft_wrap=True)
        return ended(console)
    if foreseen.events:
        if settings.sqlite_file is None:  # a file has no other users that would carry on
            standard_error().print(_MEANWHILE, soft_wrap=True)
        question = f"{foreseen.what[0].upper()}{foreseen.what[1:]}? An older Trackside cannot use them afterwards."
        if not agrees(question, yes=yes, would=f"it would {foreseen.what}"):
            return not_done("Nothing was changed.")
    progress = Progress("Upgrading", "step", total=foreseen.version.steps or None, broken_off=_broken_off)
    with saying_waits(), blaming(settings), progress:
        version = upgrade_database(settings.database_url, on_step=progress.reach)
    if json:
        console.print_json_lines([_upgrade_object(version)])
    elif version.found == version.known:
        console.print(f"Nothing to do: the tables are of version {version.known}.")
    elif version.found is None:
        console.print(f"Made the tables, of version {version.known}.")
    else:
        console.print(f"Brought the tables from version {version.found} to {version.known}.")
    return ended(console)


def _broken_off(steps: int) -> str:
    return "nothing has changed, because no step counts without the others; the same command starts over."


def _upgrade_object(version: SchemaVersion) -> JsonObject:
    """An upgrade for programs: the version that the tables had, the one that they have now, and the steps between."""
    return {**asdict(version), "steps": version.steps}


@dataclass(frozen=True, slots=True)
class _Foreseen:
    """What an upgrade would do, in words, from which version, and how many events are in the tables."""

    what: str
    version: SchemaVersion
    events: int = 0


def _foreseen(settings: Settings) -> _Foreseen:
    """What an upgrade would do.

    Raises:
        StorageError: the database cannot be read, or a newer Trackside made its tables; an upgrade would say the same.
    """
    from trackside.app.storage.errors import DatabaseMissingError
    from trackside.app.storage.maintenance import held_events, no_version, upgradable_version

    with blaming(settings):
        try:
            version = upgradable_version(settings.database_url)
        except DatabaseMissingError:
            return _Foreseen("make the tables", no_version())
        if version.found is None:
            return _Foreseen("make the tables", version)
        if version.steps == 0:
            return _Foreseen("do nothing: the tables are up to date", version)
        events = held_events(settings.database_url)
    steps = count(version.steps, "step")
    what = f"bring the tables of {settings.database_shown}, with {count(events, 'event')}, from version {version.found}"
    return _Foreseen(f"{what} to {version.known} in {steps}", version, events)


def compact(database: str | None, *, json: bool) -> ExitCode:
    """Give unused space back to the disk."""
    from trackside.app.storage.maintenance import compact_database

    settings = load_settings({_DATABASE: database})
    with saying_waits(), blaming(settings):
        compacted = compact_database(settings.database_url)
    console = standard_output()
    if json:
        console.print_json_lines([asdict(compacted)])
    else:
        console.print("Done.")
    return ended(console)


def check(database: str | None, *, every: bool, json: bool) -> ExitCode:
    """Show what is wrong with the database; the exit code says whether something is."""
    from trackside.app.storage.maintenance import SAMPLE, check_database

    settings = load_settings({_DATABASE: database})
    with blaming(settings):
        findings = check_database(settings.database_url, sample=None if every else SAMPLE)
    console = standard_output()
    if json:
        console.print_json_lines([asdict(finding) for finding in findings])
    elif findings:
        for finding in findings:
            what = suggest_at(home_of(settings).flags, one_line(finding.what))
            console.print(f"{finding.where}: {what}", soft_wrap=True)
    else:
        console.print("All is well.")
    written = ended(console)
    return ExitCode.error if findings else written
