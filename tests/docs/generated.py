"""Writes the pages of docs/ that are generated from the code: ./scripts/docs generate.

Each module that writes some has `documents()`, which returns what each file has to contain.
"""

from __future__ import annotations

from pathlib import Path

import cli_reference
import error_reference
import event_reference
import http_reference
import metrics_reference
import openapi_reference
import settings_reference

MODULES = (
    cli_reference,
    error_reference,
    event_reference,
    http_reference,
    metrics_reference,
    openapi_reference,
    settings_reference,
)


def documents() -> dict[Path, str]:
    """What each of the files has to contain."""
    return {path: text for module in MODULES for path, text in module.documents().items()}


def main() -> None:
    """Write the files that are stale, and say which they are."""
    for path, text in documents().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()
