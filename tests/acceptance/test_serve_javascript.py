"""LangGraph's JavaScript clients, as they are published, against a real server with a project made for LangGraph's."""

from __future__ import annotations

import pytest
from served_project import ServedProject

import javascript

pytestmark = pytest.mark.timeout(400)  # the packages may have to be installed first


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_method_of_the_client_works_or_says_why_not(project: ServedProject, dialect: str) -> None:
    javascript.run_tests("client.test.mjs", url=project.on(dialect).url)


@pytest.mark.parametrize("script", ["use_stream.test.mjs", "use_stream_v2.test.mjs"])
def test_both_kinds_of_use_stream_work_unchanged(project: ServedProject, script: str) -> None:
    javascript.run_tests(script, url=project.on("sqlite").url)
