"""The environment variables that say where commands find records; those of settings are in `trackside.app.settings`."""

from typing import Final

URL_VARIABLE: Final = "TRACKSIDE_URL"
KEY_VARIABLE: Final = "TRACKSIDE_API_KEY"
