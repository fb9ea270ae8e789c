"""Our environment variables that are not settings: each is read where it is needed, and is no misspelt setting.

Which server is asked, and with which key, is up to the user alone: commands take both from what was typed or from the
environment that they were started in, and from no file. The variables of a project in the current folder, which are
those of `env` in `langgraph.json`, may be somebody else's, as in a repository that was just cloned. Heeding them would let
it have what is typed, and the key in the user's environment with it.
"""

from __future__ import annotations

from typing import Final

URL_VARIABLE: Final = "TRACKSIDE_URL"
"""The server that commands ask."""
KEY_VARIABLE: Final = "TRACKSIDE_API_KEY"
"""The key with which it lets them in."""
DEBUG_VARIABLE: Final = "TRACKSIDE_DEBUG"
"""Whether commands show what operators are told, and tracebacks."""

NO_SETTINGS: Final = frozenset({URL_VARIABLE, KEY_VARIABLE, DEBUG_VARIABLE})
