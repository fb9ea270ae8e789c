"""The commands `subscriptions`, `replay` and `parked`: show how far subscriptions are, and move them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.text import Text

from trackside.app.cli.actions.asking import Consent, agrees, not_done
from trackside.app.cli.actions.catching_up import CaughtUp, catch_up, waiting
from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import abridged, ago, count, moment, one_line
from trackside.app.cli.places import Place, in_records
from trackside.app.cli.views.appearance import Look, look_of
from trackside.app.cli.views.jsonlines import record_object, stored_event_object
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.app.cli.views.overviews import look_text
from trackside.app.cli.views.tables import Column, print_facts, print_table
from trackside.app.command_lines import command_line
from trackside.app.delivery import OUR_SUBSCRIPTIONS
from trackside.harness.types import JsonObject

if TYPE_CHECKING:
    from trackside.app.cli.records.protocol import Records
    from trackside.app.storage.subscriptions import ParkedEvent, Subscription

_BRIEF = 100  # characters

_GOING_ON = Look("✓", "+", "active", "green")
_PAUSED = Look("‖", "=", "paused", "yellow")
_FAILING = Look("✗", "x", "failing", "red")


def show_all(place: Place, *, json: bool) -> ExitCode:
    """Show the state of all subscriptions."""
    found = in_records(place, lambda records: records.subscriptions(), read_only=True)
    now = datetime.now(UTC)
    return _show(
        [record_object(subscription) for subscription in found],
        lambda console: _print_table(console, found, now),
        nothing="There are no subscriptions.",
        json=json,
    )


def show_one(place: Place, name: str, *, json: bool) -> ExitCode:
    """Show the state of one subscription."""
    found = _stands(place, name)
    now = datetime.now(UTC)
    return _show([record_object(found)], lambda console: _print_one(console, found, now), json=json)


def pause(place: Place, name: str, *, dry_run: bool, json: bool) -> ExitCode:
    """Deliver nothing for now."""
    if dry_run:
        stands = _stands(place, name)
        return _foretell(stands, f"would be paused at position {stands.cursor}", json=json)
    return _change(place, name, lambda records: records.pause(name), "is paused at position {cursor}", json=json)


def resume(place: Place, name: str, *, dry_run: bool, json: bool) -> ExitCode:
    """Go on where it was."""
    if dry_run:
        stands = _stands(place, name)
        return _foretell(stands, f"would go on after position {stands.cursor}", json=json)
    return _change(place, name, lambda records: records.resume(name), "goes on after position {cursor}", json=json)


def delete(place: Place, name: str, consent: Consent, *, json: bool) -> ExitCode:
    """Delete a subscription, if the person at the terminal agrees, and show its last state."""
    stands = _stands(place, name)
    lost = f"its place ({count(stands.behind, 'position')} before the end) and {count(stands.parked, 'parked event')}"
    what = f"{one_line(name)} with {lost}"
    if consent.dry_run:
        return _foretell(stands, f"would be deleted with {lost}{_unfed(stands)}", json=json)
    if not agrees(f"Delete {what} for good?", yes=consent.yes, would=f"{what} would be deleted for good"):
        return not_done("Nothing was deleted.")

    async def do(records: Records) -> Subscription:
        last = await records.subscription(name)
        await records.forget(name)
        return last

    found = in_records(place, do)
    said = f"is deleted; it was at position {found.cursor}{_unfed(found)}"
    return _show([record_object(found)], lambda console: _say(console, name, said), json=json)


def _unfed(stands: Subscription) -> str:
    """What a delete means for the process that feeds it, if any; a server feeds its own again from the next run on."""
    if stands.consumer is None or stands.name in OUR_SUBSCRIPTIONS:
        return ""
    return f"; {one_line(stands.consumer)}, which feeds it, delivers nothing more to it until it is restarted"


def replay(place: Place, name: str, position: int, consent: Consent, *, wait: bool, json: bool) -> ExitCode:
    """Move a subscription to a position, if the person agrees to leave out or repeat the events between."""
    if consent.dry_run or not consent.yes:
        stands = _stands(place, name)
        ahead = position - 1 - stands.cursor
        if ahead > stands.behind:  # refused anyway, so there is nothing to ask
            raise ArgumentError(name="--from", why=f"the last position in the log is {stands.cursor + stands.behind}")
        if consent.dry_run:
            return _foretell(stands, _would_move(position, ahead), json=json)
        if ahead and not _wants_to_move(one_line(name), ahead):
            return not_done("Nothing was left out." if ahead > 0 else "Nothing is delivered again.")
    if wait:
        return _replay_to_the_end(place, name, position, json=json)
    said = f"goes on with position {position}, {{behind}} from the end"
    return _change(place, name, lambda records: records.seek(name, position - 1), said, json=json)


def _would_move(position: int, ahead: int) -> str:
    """What a subscription would do if it moved this many positions ahead, or back if `ahead` is negative."""
    if ahead == 0:
        return f"would go on with position {position}, as it does anyway"
    if ahead > 0:
        return f"would leave out {count(ahead, 'position')}"
    return f"would go back {count(-ahead, 'position')}, and be given them again"


def _wants_to_move(name: str, ahead: int) -> bool:
    """Whether the person agrees to move a subscription this many positions ahead, or back if `ahead` is negative."""
    if ahead > 0:
        what = f"{count(ahead, 'position')} that {name} was not given yet"
        return agrees(f"Leave out {what}?", yes=False, would=f"{what} would be left out")
    what = f"up to {count(-ahead, 'event')} that {name} was given already"
    return agrees(f"Deliver {what} again?", yes=False, would=f"{what} would be delivered again")


def _replay_to_the_end(place: Place, name: str, position: int, *, json: bool) -> ExitCode:
    """Move it, and wait until it has got everything that is in the log now. Parking any of that is a failure."""

    async def do(records: Records) -> tuple[CaughtUp, str]:
        await records.seek(name, position - 1)
        return await catch_up(records, name, position - 1, progress), records.home.flags

    with waiting(name) as progress:
        found, flags = in_records(place, do)
    said = f"has got everything up to position {found.stands.cursor}"
    if found.parked:
        look = f"`{command_line('parked', name, flags=flags)}`"
        said = f"{said}, but did not take {count(found.parked, 'event')}, parked now; see {look}"
    told = {**record_object(found.stands), "not_taken": found.parked}
    code = _show([told], lambda console: _say(console, name, said), json=json)
    return ExitCode.error if found.parked else code


def show_parked(place: Place, name: str, positions: Sequence[int] | None, *, limit: int, json: bool) -> ExitCode:
    """Show what a subscription has parked.

    Raises:
        ArgumentError: positions were chosen, which is only for `retry` and `drop`.
    """
    if positions:
        why = "it says which events to retry or drop; leave it out to see all"
        raise ArgumentError(name="--position", why=why)
    found = in_records(place, lambda records: records.parked(name, limit=limit), read_only=True)
    now = datetime.now(UTC)
    return _show(
        [_parked_object(event) for event in found],
        lambda console: _print_parked(console, found, now),
        nothing=f"{one_line(name)} has no parked events.",
        json=json,
    )


def retry_parked(place: Place, name: str, positions: Sequence[int] | None, *, dry_run: bool, json: bool) -> ExitCode:
    """Have parked events delivered again."""
    if dry_run:
        stands = _stands(place, name, positions)
        return _foretell(stands, f"would be given {_chosen(stands, positions)} again", json=json)

    async def decide(records: Records, position: int | None) -> int:
        return await records.retry_parked(name, position)

    return _decide(place, name, decide, positions, "will be delivered again", json=json)


def drop_parked(place: Place, name: str, positions: Sequence[int] | None, consent: Consent, *, json: bool) -> ExitCode:
    """Give up parked events, if the person agrees. If asked about all, only those that were counted are given up."""
    until: datetime | None = None
    if consent.dry_run or not consent.yes:
        stands = _stands(place, name, positions)
        dropped = _chosen(stands, positions)
        what = f"{dropped} that {one_line(name)} has parked"
        if consent.dry_run:
            return _foretell(stands, f"would give up {dropped}", json=json)
        if (positions or stands.parked) and not agrees(
            f"Give up {what}, for good?", yes=False, would=f"{what} would be given up for good"
        ):
            return not_done("Nothing was given up.")
        if not positions:
            if not stands.parked:
                return _decided(name, 0, "dropped", json=json)
            until = stands.last_parked_at

    async def decide(records: Records, position: int | None) -> int:
        return await records.drop_parked(name, position, until=until)

    return _decide(place, name, decide, positions, "dropped", json=json)


def _chosen(stands: Subscription, positions: Sequence[int] | None) -> str:
    """How many parked events were selected, in words."""
    return count(len({*positions}) if positions else stands.parked, "event")


def _foretell(stands: Subscription, would: str, *, json: bool) -> ExitCode:
    """Show the state of a subscription, or say what would be done to it."""
    return _show([record_object(stands)], lambda console: _say(console, stands.name, would), json=json)


def _stands(place: Place, name: str, positions: Sequence[int] | None = None) -> Subscription:
    """The state of a subscription, which must have parked the events at these positions."""

    async def look(records: Records) -> Subscription:
        stands = await records.subscription(name)
        await _see_parked(records, name, positions)
        return stands

    return in_records(place, look, read_only=True)


async def _see_parked(records: Records, name: str, positions: Sequence[int] | None) -> None:
    """Check that an event is parked at each of these positions, before anything is done with one of them.

    Raises:
        NotParkedError: there is none at one of them.
    """
    for position in sorted({*(positions or ())}):
        found = await records.parked(name, after=position - 1, limit=1)
        if not found or found[0].stored.position != position:
            from trackside.app.storage.errors import not_parked

            raise not_parked(name, position)


def _change(place: Place, name: str, do: Callable[[Records], Awaitable[None]], said: str, *, json: bool) -> ExitCode:
    """Change a subscription, and show or say its state afterwards."""

    async def change(records: Records) -> Subscription:
        await do(records)
        return await records.subscription(name)

    found = in_records(place, change)
    told = said.format(cursor=found.cursor, behind=count(found.behind, "position"))
    return _show([record_object(found)], lambda console: _say(console, name, told), json=json)


def _decide(
    place: Place,
    name: str,
    decide: Callable[[Records, int | None], Awaitable[int]],
    positions: Sequence[int] | None,
    done: str,
    *,
    json: bool,
) -> ExitCode:
    async def decide_all(records: Records) -> int:
        await _see_parked(records, name, positions)
        chosen: Sequence[int | None] = sorted({*positions}) if positions else [None]
        return sum([await decide(records, position) for position in chosen])

    return _decided(name, in_records(place, decide_all), done, json=json)


def _decided(name: str, number: int, done: str, *, json: bool) -> ExitCode:
    told: JsonObject = {"subscription": name, "events": number}
    return _show([told], lambda console: console.print(f"{count(number, 'event')} {done}."), json=json)


def _show(
    objects: Sequence[JsonObject], print_them: Callable[[OutputConsole], None], *, nothing: str = "", json: bool
) -> ExitCode:
    console = standard_output()
    if json:
        console.print_json_lines(objects)
    elif objects:
        print_them(console)
    else:
        console.print(nothing, style="dim")
    return ended(console)


def _say(console: OutputConsole, name: str, said: str) -> None:
    console.print(f"{one_line(name)} {said}.", soft_wrap=True)


def _print_table(console: OutputConsole, subscriptions: Sequence[Subscription], now: datetime) -> None:
    columns: list[Column[Subscription]] = [
        Column(title="NAME", cell=lambda found: one_line(found.name)),
        Column(title="STATE", cell=lambda found: look_text(console, _look_of(found))),
        Column(title="CURSOR", cell=lambda found: f"{found.cursor:,}", rank=5, right=True),
        Column(title="BEHIND", cell=lambda found: f"{found.behind:,}", right=True),
        Column(title="SINCE", cell=lambda found: "" if found.oldest_at is None else ago(found.oldest_at, now), rank=2),
        Column(title="PARKED", cell=lambda found: f"{found.parked:,}" if found.parked else "", rank=1, right=True),
        Column(title="FAILED", cell=lambda found: f"{found.failures:,}×" if found.failures else "", rank=3, right=True),
        Column(title="CONSUMER", cell=lambda found: one_line(found.consumer or ""), rank=6),
        Column(title="LAST ERROR", cell=lambda found: _brief(_trouble(found)), rank=4, least=16),
    ]
    print_table(console, columns, subscriptions)


def _print_one(console: OutputConsole, found: Subscription, now: datetime) -> None:
    behind = count(found.behind, "position")
    if found.oldest_at is not None:
        behind = f"{behind}, since {moment(found.oldest_at, now)}"
    failed = one_line(_trouble(found))
    if failed and found.last_error_at is not None:
        failed = f"{failed} ({ago(found.last_error_at, now)})"
    wanted = [
        f"{name} {one_line(', '.join(value) if isinstance(value, list) else value)}"
        for name, value in found.filter.to_json().items()
    ]
    print_facts(
        console,
        [
            ("subscription", one_line(found.name)),
            ("state", look_text(console, _look_of(found))),
            ("wants", ", ".join(wanted) or "all events"),
            ("on failure", found.on_failure.value),
            ("cursor", f"{found.cursor:,}"),
            ("behind", behind),
            ("parked", f"{found.parked:,}" if found.parked else ""),
            ("failed", f"{count(found.failures, 'time')} in a row" if found.failures else ""),
            ("last error", failed),
            ("consumer", one_line(found.consumer or "")),
            ("made", moment(found.created_at, now)),
            ("changed", moment(found.updated_at, now)),
        ],
    )


def _print_parked(console: OutputConsole, parked: Sequence[ParkedEvent], now: datetime) -> None:
    columns: list[Column[ParkedEvent]] = [
        Column(title="POSITION", cell=lambda found: str(found.stored.position), right=True),
        Column(title="EVENT", cell=lambda found: look_text(console, look_of(found.stored.event))),
        Column(title="RUN", cell=lambda found: found.stored.event.run_id, rank=3, least=12, keep_end=True),
        Column(title="STATE", cell=lambda found: found.state.value, rank=1),
        Column(title="TRIES", cell=lambda found: f"{found.attempts:,}", rank=2, right=True),
        Column(title="PARKED", cell=lambda found: ago(found.parked_at, now), rank=4),
        Column(title="ERROR", cell=lambda found: Text(_brief(found.error), "red"), least=16),
    ]
    print_table(console, columns, parked)


def _parked_object(found: ParkedEvent) -> JsonObject:
    told = record_object(found)
    del told["stored"]
    return {**stored_event_object(found.stored), **told}


def _trouble(found: Subscription) -> str:
    """The last error, while something about it still needs attention."""
    return (found.last_error or "") if found.failures or found.parked else ""


def _look_of(found: Subscription) -> Look:
    if found.state.value == "paused":
        return _PAUSED
    return _FAILING if found.failures else _GOING_ON


def _brief(text: str) -> str:
    return abridged(one_line(text), _BRIEF)
