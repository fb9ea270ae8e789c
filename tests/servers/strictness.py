"""How tests start programs: a warning is an error, except for what libraries use and Python 3.14 deprecates."""

from typing import Final

_OLD: Final = tuple(
    f"ignore:'asyncio.{name}' is deprecated:DeprecationWarning"
    for name in ("iscoroutinefunction", "get_event_loop_policy")
)
STRICT: Final = ("-W", "error", *(word for ignored in _OLD for word in ("-W", ignored)))
"""Arguments of a Python command line."""
WARNINGS: Final = ",".join(("error", *_OLD))
"""The variable `PYTHONWARNINGS`."""
