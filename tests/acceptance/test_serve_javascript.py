"""LangGraph's JavaScript clients, as they are published, against a real server with a project made for LangGraph's."""

from __future__ import annotations

import pytest
from served_project import PLACES, ServedProject

import javascript

pytestmark = pytest.mark.timeout(400)  # the packages may have to be installed first


@pytest.mark.parametrize("place", PLACES)
def test_every_method_of_the_client_works_or_says_why_not(project: ServedProject, place: str) -> None:
    javascript.run_tests("client.test.mjs", url=project.on(place).url)


def test_a_remote_graph_is_called_and_answered(project: ServedProject) -> None:
    javascript.run_tests("remote_graph.test.mjs", url=project.on("sqlite").url)


@pytest.mark.parametrize("place", ["sqlite", "nats-fleet", pytest.param("postgres-fleet", marks=pytest.mark.long)])
def test_pages_hear_what_became_of_answers(project: ServedProject, place: str) -> None:
    javascript.run_tests("answers_v2.test.mjs", url=project.on(place).url)


@pytest.mark.parametrize("script", ["use_stream.test.mjs", "use_stream_v2.test.mjs"])
@pytest.mark.parametrize("place", ["sqlite", "nats-fleet", pytest.param("postgres-fleet", marks=pytest.mark.long)])
def test_both_kinds_of_use_stream_work_unchanged(project: ServedProject, script: str, place: str) -> None:
    javascript.run_tests(script, url=project.on(place).url)
