"""Our environment variables that are not settings: each is read where it is needed, and is no misspelt setting."""

from __future__ import annotations

from typing import Final

URL_VARIABLE: Final = "TRACKSIDE_URL"
"""The server that commands ask."""
KEY_VARIABLE: Final = "TRACKSIDE_API_KEY"
"""The key with which it lets them in."""
DEBUG_VARIABLE: Final = "TRACKSIDE_DEBUG"
"""Whether commands show what operators are told, and tracebacks."""

NO_SETTINGS: Final = frozenset({URL_VARIABLE, KEY_VARIABLE, DEBUG_VARIABLE})
