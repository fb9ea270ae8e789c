"""Interpreters of other languages in which people write receivers."""

from __future__ import annotations

from debian_programs import program


def php() -> str:
    """PHP, from Debian if it is not there."""
    return program("PHP", ["php"], ["php-cli"])
