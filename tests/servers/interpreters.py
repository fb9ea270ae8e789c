"""Interpreters of other languages in which people write receivers."""

from __future__ import annotations

from debian_programs import program


def php() -> str:
    """The path of PHP, which is installed from Debian if it is missing."""
    return program("PHP", ["php"], ["php-cli"])
