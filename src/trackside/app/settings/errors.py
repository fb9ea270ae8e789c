"""What is wrong with settings."""

from __future__ import annotations

from trackside.harness.errors import TracksideError


class SettingsError(TracksideError, ValueError):
    """{where}: {why}."""


class DefaultDatabaseError(SettingsError):
    """{why}."""


def where_set(key: str, source: str) -> str:
    """Where a value was set, as messages say it: a flag and a variable name their key themselves, a file does not."""
    return source if source.startswith(("-", "TRACKSIDE_")) else f"{source}, {key}"
