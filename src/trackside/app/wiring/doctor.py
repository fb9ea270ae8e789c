"""Looks for what is wrong: with the settings, the database, the runs in it, the spool. Changes nothing.

Each finding says what is wrong, where, and what to do; whoever shows them adds nothing.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trackside.app.command_lines import command_line
from trackside.app.delivery import RUN_WEBHOOKS
from trackside.app.settings import SETTINGS_FILE, Settings
from trackside.app.spool import DAMAGED_FILE, REFUSED_FILE
from trackside.app.spool.standing import look_into, nearest_place, why_unwritable
from trackside.app.wiring.access_doctor import examine_access
from trackside.app.wiring.database import blaming
from trackside.app.wiring.errors import NothingRecordedError
from trackside.app.wiring.file_modes import open_to_others
from trackside.app.wiring.findings import Finding, Severity, long_time
from trackside.app.wiring.fleet_doctor import examine_fleet
from trackside.app.wiring.loading_doctor import examine_code
from trackside.app.wiring.spooling import spool_folder, spools_elsewhere
from trackside.harness.errors import TracksideError

if TYPE_CHECKING:
    from trackside.app.storage.health import Health, RunHealth
    from trackside.app.storage.subscriptions import Subscription

__all__ = ["LEAST_ROOM", "Finding", "Severity", "examine", "examine_running", "findings_in"]

LEAST_ROOM: Final = 200 * 1_048_576
"""Bytes that should be free where a database file or the spool grows."""

_PATIENCE: Final = timedelta(minutes=1)  # in which runs that could start are usually taken
_SILENCE: Final = timedelta(minutes=5)  # of a run whose process, if there is one, is not known
_LAG: Final = timedelta(minutes=5)  # by which a subscription may be behind
_CLOCK_SECONDS: Final = 5.0  # by which clocks may differ


def examine_running(settings: Settings) -> list[Finding]:
    """What can be found in moments, the worst first, for whoever runs with these settings; it blocks.

    No agent is imported, no file is read as a whole to see whether it is sound, and no needless connection is made.
    """
    found = [*_database(settings, datetime.now(UTC), sound=False), *_places(settings, LEAST_ROOM)]
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


async def examine(settings: Settings, *, least_room: int = LEAST_ROOM, now: datetime | None = None) -> list[Finding]:
    """Everything that is found, the worst first. Code of others is imported in processes of its own.

    Args:
        settings: what is examined.
        least_room: bytes that should be free on the disks that are written to.
        now: the time; this machine's if left out.
    """
    now = datetime.now(UTC) if now is None else now
    flags = _flags(settings)
    found = [finding async for finding in examine_code(settings)]
    found += [*await examine_access(settings, flags)]
    found += await asyncio.to_thread(lambda: [*_database(settings, now), *_places(settings, least_room)])
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def _database(settings: Settings, now: datetime, *, sound: bool = True) -> Iterator[Finding]:
    from trackside.app.storage.health import check_writable, database_health
    from trackside.app.storage.maintenance import schema_version

    where, flags = settings.database_shown, _flags(settings)
    said_there = f"do what the message says, and see whether it helped: `trackside db check{flags}`"
    try:
        with blaming(settings):
            version = schema_version(settings.database_url)
            if version.found != version.known:
                yield _other_version(version.found, version.known, where, flags, is_newer=version.is_newer)
                return
            health = database_health(settings.database_url, now=now, sound=sound)
    except NothingRecordedError as exc:
        yield Finding(severity=Severity.note, what=str(exc).rstrip("."), where=where)
        return
    except TracksideError as exc:
        yield Finding(severity=Severity.error, what=f"it cannot be used: {exc}", where=where, fix=said_there)
        return
    try:
        check_writable(settings.database_url)
    except TracksideError as exc:
        yield Finding(severity=Severity.error, what=f"it cannot be written: {exc}", where=where, fix=said_there)
    if health is not None:
        if settings.engine_kind != "inline":  # more is said below of those that nobody takes: workers may be busy
            health = replace(health, unclaimed=())
        yield from findings_in(health, where, now, flags)
        yield from _unfed(health, settings)
        yield from _fleet(settings, now, flags, connects=sound)


def _fleet(settings: Settings, now: datetime, flags: str, *, connects: bool) -> Sequence[Finding]:
    try:
        return asyncio.run(examine_fleet(settings, now=now, flags=flags, connects=connects))
    except TracksideError as exc:
        what = f"its fleet cannot be looked at: {exc}"
        fix = f"see whether the database is well: `trackside db check{flags}`"
        return [Finding(severity=Severity.error, what=what, where=settings.database_shown, fix=fix)]


def _flags(settings: Settings) -> str:
    """The flags with which another command finds this database, not the one that the environment or the file says."""
    given = settings.database_source == "--database"
    return f" --database {shlex.quote(settings.database_shown)}" if given else ""


def _other_version(found: str | None, known: str, where: str, flags: str, *, is_newer: bool) -> Finding:
    if found is None:
        return Finding(severity=Severity.note, what="it has no tables yet; recording a run makes them", where=where)
    what = f"its tables are of version {found}, and this Trackside works with {known}"
    if is_newer:
        return Finding(
            severity=Severity.error, what=what, where=where, fix="upgrade Trackside: `pip install --upgrade trackside`"
        )
    return Finding(
        severity=Severity.warning, what=what, where=where, fix=f"bring them up to date: `trackside db upgrade{flags}`"
    )


def findings_in(health: Health, where: str, now: datetime, flags: str = "") -> Iterator[Finding]:
    """What somebody should know of a database's health.

    Args:
        health: what was looked at.
        where: the database, as it may be shown.
        now: the time.
        flags: the flags with which commands find this database, if they would take another one without them.
    """
    for damage in health.damage:
        save = f"`trackside export saved.jsonl{flags}`"
        fix = f"stop what uses it, keep a copy, restore a backup; to save what can be read: {save}"
        yield Finding(severity=Severity.error, what=f"the file is damaged: {damage}", where=where, fix=fix)
    if abs(health.clock_ahead) > _CLOCK_SECONDS:
        direction = "ahead of" if health.clock_ahead > 0 else "behind"
        what = (
            f"the server's clock is {abs(health.clock_ahead):.0f} s {direction} this machine's, by which times are told"
        )
        yield Finding(
            severity=Severity.warning, what=what, where=where, fix="have both set by NTP: `timedatectl set-ntp true`"
        )
    yield from _runs(health, now, flags)
    for thread_id in health.left_busy:
        fix = f"see what it came to, and go on with another run of it: `{command_line('threads', thread_id, flags=flags)}`"
        what = "it is busy, but no run of it goes on"
        yield Finding(severity=Severity.warning, what=what, where=f"thread {thread_id}", fix=fix)
    for subscription in health.subscriptions:
        yield from _subscription(subscription, now, flags)


def _runs(health: Health, now: datetime, flags: str) -> Iterator[Finding]:
    for run in health.stuck:
        what = f"{run.agent} was cancelled and has not stopped for {long_time(now - run.since)}; its thread stays held"
        look = f"`{command_line('runs', run.run_id, flags=flags)}`"
        fix = f"restart {run.worker or 'its process'}, whose log says where the agent is; what it did: {look}"
        yield _of_run(run, Severity.error, what, fix)
    for run in health.abandoned:
        what = f"{run.agent} is recorded as running, but its process ({run.worker or 'unknown'}) is gone"
        fix = f"any process that records here ends it or starts it anew: {_cancel(run, flags)}"
        yield _of_run(run, Severity.warning, what, fix)
    for run in health.unattended:
        if now - run.since > _SILENCE:
            what = f"{run.agent} is recorded as running, but has said nothing for {long_time(now - run.since)}"
            why = "it was recorded without a coordinator, or imported, so nobody ends it"
            yield _of_run(run, Severity.warning, what, f"{why}; if it is over, end it: {_cancel(run, flags)}")
    for run in health.unclaimed:
        if now - run.since > _PATIENCE:
            what = f"it waits for a process that runs {run.agent}, since {long_time(now - run.since)}"
            fix = f"start one that has an agent of this name, or give it up: {_cancel(run, flags)}"
            yield _of_run(run, Severity.warning, what, fix)
    for worker in health.workers:
        if worker.seconds_left > 0:
            runs = "1 run" if worker.runs == 1 else f"{worker.runs} runs"
            what = f"it looks after {runs}, and its lease lasts another {worker.seconds_left:.0f} s"
            yield Finding(
                severity=Severity.note,
                what=what,
                where=f"{'process' if worker.kind == 'inline' else worker.kind} {worker.name}",
            )


def _cancel(run: RunHealth, flags: str) -> str:
    """The command that ends a run, whoever has it."""
    return f"`{command_line('cancel', run.run_id, flags=flags)}`"


def _of_run(run: RunHealth, severity: Severity, what: str, fix: str) -> Finding:
    return Finding(severity=severity, what=what, where=f"run {run.run_id}, thread {run.thread_id}", fix=fix)


def _unfed(health: Health, settings: Settings) -> Iterator[Finding]:
    configured = {observer.name for observer in settings.observers}
    for subscription in health.subscriptions:
        if subscription.name not in configured and subscription.consumer is None:
            what = "nobody feeds it, and the settings here have no observer of this name"
            if subscription.name == RUN_WEBHOOKS:
                what = "nobody feeds it, as servers do, for the runs that have webhooks of their own"
            yield Finding(severity=Severity.note, what=what, where=f"subscription {subscription.name}")


def _subscription(subscription: Subscription, now: datetime, flags: str) -> Iterator[Finding]:
    name, look = subscription.name, command_line("subscriptions", subscription.name, flags=flags)
    where = f"subscription {subscription.name}"
    times = "once" if subscription.failures == 1 else f"{subscription.failures} times"
    if subscription.state == "paused" and subscription.failures:  # as when its receiver says that it is gone
        what = f"it is paused, and {subscription.behind} events behind, since its next event failed {times}"
        fix = f"check its receiver, and resume it: `{command_line('subscriptions', name, 'resume', flags=flags)}`"
        yield Finding(severity=Severity.warning, what=f"{what}: {subscription.last_error}", where=where, fix=fix)
    elif subscription.state == "paused":
        what = f"somebody paused it, and it is {subscription.behind} events behind"
        yield Finding(severity=Severity.note, what=what, where=where)
    elif subscription.failures:
        blocks = subscription.on_failure == "block"
        what = f"its next event failed {times}{', and holds up all later ones' if blocks else ''}"
        fix = f"check its receiver, and how it stands: `{look}`"
        # Otherwise the event that fails need not be the first after the cursor, and is parked where it keeps failing.
        if blocks and not subscription.filter.to_json():
            past = f"`{command_line('replay', name, flags=f' --from {subscription.cursor + 2}{flags}')}`"
            fix = f"check its receiver, or skip the event, and repeat what was handled after it: {past}"
        severity = Severity.error if blocks else Severity.warning
        yield Finding(severity=severity, what=f"{what}: {subscription.last_error}", where=where, fix=fix)
    elif subscription.oldest_at is not None and now - subscription.oldest_at > _LAG:
        what = (
            f"it is {subscription.behind} events behind, the oldest from {long_time(now - subscription.oldest_at)} ago"
        )
        deliver = f"`{command_line('deliver', name, flags=flags)}`"
        feeds = f"start what feeds it; for an observer of {SETTINGS_FILE} that is also {deliver}"
        slow = f"see why its observer is slow, or holds events back: `{look}`"
        fix = feeds if subscription.consumer is None else slow
        yield Finding(severity=Severity.warning, what=what, where=where, fix=fix)
    if subscription.parked:
        what = f"{subscription.parked} events are parked that its observer could not handle"
        fix = f"look at them, and retry or drop them: `{command_line('parked', name, flags=flags)}`"
        yield Finding(severity=Severity.warning, what=what, where=where, fix=fix)


def _places(settings: Settings, least_room: int) -> Iterator[Finding]:
    """What is wrong with the disks that are written to."""
    from trackside.app.storage.health import database_file

    folder, flags = spool_folder(settings), _flags(settings)
    yield from _spool(folder, flags)
    for elsewhere, waiting, bring in spools_elsewhere(settings):
        ends = "1 end of a run is" if waiting == 1 else f"{waiting} ends of runs are"
        what = f"{ends} kept here for a database at another address, and by no process that runs"
        fix = f"if it has this address now, bring them, and start what records here: `{bring}`"
        yield Finding(severity=Severity.warning, what=what, where=str(elsewhere), fix=fix)
    file = database_file(settings.database_url)
    if found := open_to_others(settings.sqlite_files, folder):
        what = "every user of this machine may read in it what runs were asked and what they answered"
        fix = f"take that right away: `chmod o= {shlex.join(map(str, found))}`"
        yield Finding(severity=Severity.warning, what=what, where=str(found[0]), fix=fix)
    looked_at: set[int] = set()
    for place in (nearest_place(path) for path in (file, folder) if path is not None):
        free, disk = shutil.disk_usage(place).free, place.stat().st_dev
        if free < least_room and disk not in looked_at:
            looked_at.add(disk)
            what = f"only {free / 1_048_576:,.0f} MiB are free on its disk"
            prune, compact = f"trackside prune --older-than 30d{flags}", f"trackside db compact{flags}"
            fix = f"make room; an SQLite file gives some back: `{prune} && {compact}`"
            yield Finding(severity=Severity.warning, what=what, where=str(place), fix=fix)


def _spool(folder: Path, flags: str) -> Iterator[Finding]:
    place, where = nearest_place(folder), str(folder)
    if (what := why_unwritable(folder)) is not None:
        quoted, in_place = shlex.quote(where), shlex.quote(str(place))
        fix = f"set database.spool, or give the right to write there: `mkdir -p {quoted} && chmod u+rwx {quoted}`"
        if not place.is_dir():
            fix = f"set database.spool to a folder, or put away what is in its place: `mv {in_place} {in_place}.old`"
        yield Finding(severity=Severity.error, what=what, where=where, fix=fix)
        return
    try:
        standing = look_into(folder)
    except OSError as exc:
        what = f"it cannot be read: {exc.strerror}"
        yield Finding(
            severity=Severity.error,
            what=what,
            where=where,
            fix=f"give the right to read there: `chmod -R u+rX {shlex.quote(where)}`",
        )
        return
    if standing.waiting:
        ends = "1 end of a run is" if standing.waiting == 1 else f"{standing.waiting} ends of runs are"
        what = f"{ends} kept here that the database has not taken"
        fix = f"the next process that records here delivers them, such as a server: `trackside serve{flags}`"
        yield Finding(severity=Severity.warning, what=what, where=where, fix=fix)
    if standing.refused:
        what = f"{standing.refused} ends of runs do not fit what the database has"
        fix = f"look at their reasons, then remove it: `less {shlex.quote(str(folder / REFUSED_FILE))}`"
        yield Finding(severity=Severity.warning, what=what, where=where, fix=fix)
    if standing.damaged:
        what = f"{standing.damaged} records could not be read"
        fix = f"see whether it still says something, then remove it: `less {shlex.quote(str(folder / DAMAGED_FILE))}`"
        yield Finding(severity=Severity.warning, what=what, where=where, fix=fix)
