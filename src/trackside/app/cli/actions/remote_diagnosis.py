"""What is wrong with a running server, as far as it tells this client."""

from __future__ import annotations

import msgspec

from trackside._version import __version__
from trackside.app.cli.places import Place
from trackside.app.cli.records.remote_connection import Connection, NotAllowedError, ServerFailedError, connected
from trackside.app.wiring.findings import Finding, Severity


class _Reason(msgspec.Struct):
    check: str
    why: str


class _Readiness(msgspec.Struct):
    reasons: list[_Reason]
    warnings: list[_Reason]
    degraded: list[_Reason] = []  # older servers do not send it


class _Found(msgspec.Struct):
    level: Severity
    what: str
    where: str
    next_command: str | None


class _System(msgspec.Struct):
    findings: list[_Found]


async def examine_server(server: str, place: Place) -> list[Finding]:
    """Everything that a server finds, the worst first; commands in it are for the machine of the server's database.

    Raises:
        RemoteError: it does not answer, or does not accept this key.
    """
    async with connected(server, place.key, said_by=place.said_by) as connection:
        found = [*await _readiness(connection), *await _system(connection)]
        if connection.version != __version__:
            what = f"the server has version {connection.version}, and this command {__version__}"
            fix = f"use the same version of both: `pip install trackside=={connection.version}`"
            found.append(Finding(severity=Severity.note, what=what, where=connection.home.shown, fix=fix))
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


async def _readiness(connection: Connection) -> list[Finding]:
    """Why the server cannot do its work, and what else it notices about itself."""
    url = connection.home.shown
    found = connection.decode((await connection.get("health/ready", accepted=503)).body, _Readiness)
    fix = f"look at the server's log, and at what else it says: `curl {url}/health/ready`"
    reasons = [(Severity.error, reason) for reason in found.reasons]
    return [
        Finding(severity=severity, what=f"{reason.check}: {reason.why}", where=url, fix=fix)
        for severity, reason in [*reasons, *((Severity.warning, one) for one in (*found.degraded, *found.warnings))]
    ]


async def _system(connection: Connection) -> list[Finding]:
    """What the server's own doctor finds; it tells only an admin."""
    url = connection.home.shown
    try:
        found = connection.decode((await connection.get("system")).body, _System).findings
    except NotAllowedError:
        what = "nothing could be checked: the server tells what it finds only to keys with the permission 'admin'"
        fix = "make one where its database is: `trackside auth create doctor --permission admin`"
        return [Finding(severity=Severity.warning, what=what, where=url, fix=fix)]
    except ServerFailedError as exc:
        fix = f"look at the server's log, and at its state: `curl {url}/health/ready`"
        return [Finding(severity=Severity.error, what=str(exc).rstrip("."), where=url, fix=fix)]
    return [Finding(severity=one.level, what=one.what, where=one.where, fix=one.next_command or "") for one in found]
