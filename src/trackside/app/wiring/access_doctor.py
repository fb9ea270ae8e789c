"""Whether somebody could ask a server with these settings, but nobody whom it would not know."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from trackside.app.settings import Settings
from trackside.app.wiring.database import open_store
from trackside.app.wiring.errors import NothingRecordedError
from trackside.app.wiring.findings import Finding, Severity
from trackside.harness.errors import TracksideError


async def examine_access(settings: Settings, flags: str) -> list[Finding]:
    """What keeps a server from starting, or clients from being let in, as far as can be seen without code of others.

    Args:
        settings: what is examined.
        flags: the flags with which commands find this database, if they would take another one without them.
    """
    found = [*_exposed(settings)]
    if settings.access.auth == "keys" and not await _may_have_keys(settings):
        what = "no API key is valid here, so nobody is let in"
        fix = f"make one: `trackside auth create NAME --permission admin{flags}`"
        found.append(Finding(severity=Severity.warning, what=what, where=settings.place_of("server.auth"), fix=fix))
    return found


def _exposed(settings: Settings) -> Iterator[Finding]:
    from trackside.app.server.auth.exposure import ExposedServerError, check_exposure

    try:
        check_exposure([settings.server.host], settings.access.auth)
    except ExposedServerError as exc:
        fix = (
            "say who is let in, or let it listen at 127.0.0.1; to see what a start would say: `trackside serve --check`"
        )
        yield Finding(
            severity=Severity.error, what=str(exc).rstrip("."), where=settings.place_of("server.host"), fix=fix
        )


async def _may_have_keys(settings: Settings) -> bool:
    """Whether there is a good key, or that cannot be seen: then something else is found."""
    try:
        async with open_store(settings, create=False, read_only=True) as store:
            now = datetime.now(UTC)
            return any(key.is_good(now) for key in await store.api_keys.all())
    except NothingRecordedError:
        return False
    except TracksideError:
        return True
