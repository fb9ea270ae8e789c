"""What goes wrong though the settings are as they should be: a package, a database or a client's address is missing."""

from __future__ import annotations

from trackside.harness import TracksideError


class MissingExtraError(TracksideError, ImportError):
    """{what} needs {package}, which is not installed: pip install 'trackside[{extra}]'."""


class NothingRecordedError(TracksideError, LookupError):
    """nothing recorded at {database} yet; `trackside run AGENT INPUT` makes it."""


class AddressNeededError(TracksideError, RuntimeError):
    """LangGraph's client has no address, and {why}; give it one, as get_client(url="http://…:2024", api_key="…")."""

    fault = "agent"
