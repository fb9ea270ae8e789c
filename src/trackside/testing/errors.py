"""What can go wrong in a test before it tests anything."""

from __future__ import annotations

from trackside.harness.errors import TracksideError


class InvalidTestError(TracksideError, ValueError):
    """A test cannot be made with {argument} = {value!r:.100}: {why}."""
