"""Asks a server of a fleet for runs, and waits for what becomes of them."""

from __future__ import annotations

from typing import Any

import httpx
from trackside_server import PATIENCE, TracksideServer, wait_until


def ask(server: TracksideServer, agent: str, **input: Any) -> Any:
    body = {"assistant_id": agent, "input": input}
    return httpx.post(f"{server.url}/runs/wait", json=body, timeout=PATIENCE).raise_for_status().json()


def begin(server: TracksideServer, name: str, agent: str = "until_told") -> str:
    """Start a run that goes on until there is a file `go`, and wait until it is executed; returns its id."""
    body = {"assistant_id": agent, "input": {"name": name}, "on_completion": "keep"}
    run = httpx.post(f"{server.url}/runs", json=body, timeout=PATIENCE).raise_for_status().json()
    wait_until((server.folder / f"at-it-{name}").exists, "it is executed")
    return str(run["run_id"])


def status_of(server: TracksideServer, run_id: str) -> str:
    return str(httpx.get(f"{server.url}/runs/{run_id}", timeout=PATIENCE).raise_for_status().json()["status"])
