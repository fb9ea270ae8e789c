"""LangGraph's JavaScript clients, as they are published, against a real server with a project made for LangGraph's."""

from __future__ import annotations

import pytest
from served_project import ServedProject

import javascript

pytestmark = pytest.mark.timeout(400)  # the packages may have to be installed first


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_method_of_the_client_works_or_says_why_not(project: ServedProject, dialect: str) -> None:
    javascript.run_tests("client.test.mjs", url=project.on(dialect).url)


def test_use_stream_of_the_sdk_works_unchanged(project: ServedProject) -> None:
    javascript.run_tests("use_stream.test.mjs", url=project.on("sqlite").url)
