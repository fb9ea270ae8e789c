"""Lets the code of a LangGraph project find what its `langgraph.json` promises: its variables, its modules, its packages."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Final

from trackside.app.settings import Settings

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def enter_project(settings: Settings) -> None:
    """Set the variables that this process's environment does not have, and import from the project's folders, too."""
    project = settings.project
    for name, value in project.variables.items():
        os.environ.setdefault(name, value)
    for folder in project.import_roots:
        if folder not in sys.path:
            sys.path.append(folder)  # behind all else: none of them hides what is installed


def missing_packages(settings: Settings) -> Iterator[str]:
    """What the project wants installed and is not, a sentence for each."""
    from importlib.metadata import PackageNotFoundError, distribution

    for package in settings.project.packages:
        name = _NAME.match(package)
        if name is None or package.startswith(("git+", "http:", "https:", "file:")):
            yield f"langgraph.json, dependencies: {package} does not say what is imported; make sure that it is installed"
            continue
        try:
            distribution(name[0])
        except PackageNotFoundError:
            yield f"langgraph.json, dependencies: {package} is not installed; pip install '{package}'"
