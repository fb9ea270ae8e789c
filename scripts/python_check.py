"""Stops a build on a Python that is too old: an old pip checks that last, after every release of every dependency."""

from __future__ import annotations

import sys
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class NewEnough(MetadataHookInterface):
    """Checks `requires-python` before anything else is fetched."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Change nothing.

        Raises:
            SystemExit: the Python is too old. pip shows this text.
        """
        if sys.version_info < (3, 12):  # noqa: UP036 - whoever builds it has what he has
            found = ".".join(map(str, sys.version_info[:3]))
            sys.exit(f"Trackside needs Python 3.12 or newer, and this is {found}: python3.13 -m venv env")
