"""The command `doctor`: shows what is wrong; its exit code says whether somebody has to do something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Final

from trackside.app.cli.failures import ExitCode
from trackside.app.cli.formatting import one_line
from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.places import Place, home_of
from trackside.app.cli.suggesting import suggest_at
from trackside.app.cli.views.appearance import Look
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.app.wiring.doctor import examine
from trackside.app.wiring.findings import Finding, Severity

_LOOKS: Final = {
    Severity.error: Look("✗", "x", "error", "red"),
    Severity.warning: Look("!", "!", "warning", "yellow"),
    Severity.note: Look("·", ".", "note", "dim"),
}


def doctor(place: Place, *, json: bool) -> ExitCode:
    """Show all findings: those about this machine, or those that a server has about its own."""
    if (server := place.server) is not None:
        from trackside.app.cli.actions.remote_diagnosis import examine_server

        findings = run_loop(examine_server, server, place)
    else:
        settings = place.settings()
        flags = home_of(settings).flags
        findings = [_at(flags, finding) for finding in run_loop(examine, settings)]
    console = standard_output()
    if json:
        console.print_json_lines([asdict(finding) for finding in findings])
    else:
        _print(console, findings)
    console.check()
    if any(finding.severity is not Severity.note for finding in findings):
        return ExitCode.error
    return ExitCode.reader_gone if console.reader_gone else ExitCode.success


def _at(flags: str, finding: Finding) -> Finding:
    """The finding; also commands that it has from errors, and those for code, are about the database that was typed."""
    return replace(finding, what=suggest_at(flags, finding.what), fix=suggest_at(flags, finding.fix))


def _print(console: OutputConsole, findings: Sequence[Finding]) -> None:
    for finding in findings:
        look = _LOOKS[finding.severity]
        console.print(f"{console.symbol(look)} {look.label:<7}", style=look.style, end="  ")
        console.print(f"{one_line(finding.where)}: {one_line(finding.what)}", soft_wrap=True)
        if finding.fix:
            console.print(f"             {one_line(finding.fix)}", style="dim", soft_wrap=True)
    if all(finding.severity is Severity.note and not finding.is_of_nothing for finding in findings):
        console.print("All is well.")
