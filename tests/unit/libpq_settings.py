"""What libpq looks at beside an address: variables of the environment, and files of services."""

from pathlib import Path

import pytest


def forget_variables(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment says where a database is."""
    for name in (
        "HOST",
        "HOSTADDR",
        "SERVICE",
        "SERVICEFILE",
        "SYSCONFDIR",
        "OPTIONS",
        "TARGETSESSIONATTRS",
        "SSLMODE",
        "SSLROOTCERT",
        "CHANNELBINDING",
        "GSSENCMODE",
        "REQUIREAUTH",
        "CONNECT_TIMEOUT",
    ):
        monkeypatch.delenv(f"PG{name}", raising=False)
    monkeypatch.setenv("HOME", str(home))


def write_services(file: Path, *lines: str) -> Path:
    file.write_text(
        "\n".join(["# of all programs", "[another]", "host=another", "", *lines, "[last]", "host=last", ""])
    )
    return file
