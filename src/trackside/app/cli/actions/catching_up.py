"""Waits until a subscription has caught up, and shows its progress. One or more other processes feed it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, ClassVar, Final

from trackside.app.cli.arguments import ALL
from trackside.app.cli.formatting import count, one_line
from trackside.app.cli.places import say_away, when_there
from trackside.app.cli.views.progress import Progress
from trackside.app.command_lines import command_line
from trackside.harness.errors import Fault, TracksideError

if TYPE_CHECKING:
    from trackside.app.cli.records.protocol import Records
    from trackside.app.storage.subscriptions import Subscription

LOOK_SECONDS: Final = 0.25
PATIENCE: Final = 15.0
"""Seconds within which the process that feeds a subscription takes it up again, even if it must wait out a pause."""


class StandsStillError(TracksideError):
    """{name} has stopped at position {position}: {why}."""

    fault: ClassVar[Fault] = "observer"


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The state of a subscription that has got everything up to a position, and how many of these events it parked."""

    stands: Subscription
    parked: int


def waiting(name: str) -> Progress:
    """The progress bar of a wait; use it around the event loop in which the wait happens."""
    said = one_line(name)

    def broken_off(positions: int) -> str:
        return f"{said} was {count(positions, 'position')} further; it goes on without this command."

    return Progress(f"Replaying {said}", "position", total=1, broken_off=broken_off)


async def catch_up(
    records: Records, name: str, start: int, progress: Progress, *, clock: Callable[[], float] = monotonic
) -> CaughtUp:
    """Wait until a subscription has got everything that is in the log now, also while the records are away.

    Args:
        records: where the subscription is.
        name: its name.
        start: the position after which it was put; the process that feeds it may already be further.
        progress: is told how far it is.
        clock: returns seconds, and never goes back.

    Raises:
        StandsStillError: it is paused, nobody delivers to it, or it keeps failing and nothing may overtake the event.
        UnknownSubscriptionError: somebody deleted it meanwhile.
    """
    is_away = False

    def hear_outage(failure: Exception) -> None:
        nonlocal is_away
        is_away = True
        say_away(failure, progress.console)

    stands = await when_there(lambda: records.subscription(name), hear_outage)
    end = stands.cursor + stands.behind
    moved_at = clock()
    while stands.cursor < end:
        progress.reach(max(0, stands.cursor - start), total=end - start, note=_note(stands))
        await asyncio.sleep(LOOK_SECONDS)
        now = await when_there(lambda: records.subscription(name), hear_outage)
        if now.cursor != stands.cursor or is_away:  # what feeds it was away, too, or has still to notice
            moved_at, is_away = clock(), False
        stands = now
        is_patient = clock() - moved_at < PATIENCE
        if stands.cursor < end and (why := _why_still(stands, is_patient=is_patient, flags=records.home.flags)):
            raise StandsStillError(name=name, position=stands.cursor, why=why)
    # A redelivered event does not stay parked once it is handled, so those parked in this range failed this time.
    parked = await when_there(lambda: records.parked(name, limit=ALL), hear_outage) if stands.parked else []
    return CaughtUp(stands, sum(start < event.stored.position <= end for event in parked))


def _note(stands: Subscription) -> str:
    parked = f"{stands.parked:,} parked" if stands.parked else ""
    failing = f"failing, {count(stands.failures, 'time')}" if stands.failures else ""
    return ", ".join(filter(None, (parked, failing)))


def _why_still(stands: Subscription, *, is_patient: bool, flags: str) -> str | None:
    """Why it will not go on by itself; None while it may."""
    name = stands.name
    if stands.state.value == "paused":
        return f"it is paused; to resume it: `{command_line('subscriptions', name, 'resume', flags=flags)}`"
    if is_patient:
        return None
    if stands.failures and stands.on_failure.value == "block":
        said = one_line(stands.last_error or "").rstrip(".")
        look = f"`{command_line('subscriptions', name, flags=flags)}`"
        return f"its next event fails and holds up all later ones ({said}); details: {look}"
    if stands.consumer is None:
        database = "" if "--url" in flags else flags
        return (
            f"nobody delivers to it; run this where its observer is: `{command_line('deliver', name, flags=database)}`"
        )
    return None
