"""Which databases a test runs on."""

from typing import Final

import pytest

BOTH: Final = ("sqlite", "postgres")
"""For tests of what is asked of a database, and of what several processes do to one another in it."""

MOSTLY_SQLITE: Final = ("sqlite", pytest.param("postgres", marks=pytest.mark.long))
"""For tests of what stands above that: on PostgreSQL they ask nothing that tests of `BOTH` do not ask."""
