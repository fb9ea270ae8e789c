"""What can go wrong before a fleet is up."""

from __future__ import annotations

from typing import ClassVar

from trackside.harness.errors import Fault, TracksideError


class NotInstalledError(TracksideError, ImportError):
    """a fleet on this machine needs {what}, which is not installed: pip install 'trackside[fleet]'."""


class DataFolderError(TracksideError, OSError):
    """{folder} cannot be the data folder of a fleet: {why}."""


class LocalServerError(TracksideError, RuntimeError):
    """{what} does not start: {why}."""

    fault: ClassVar[Fault] = "store"
