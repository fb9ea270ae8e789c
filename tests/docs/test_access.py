"""The functions on the page about access let in those they know, and nobody else."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from blocks import DOCS, blocks_of

from trackside.app.settings import AccessSettings, Settings
from trackside.app.wiring import open_app


@pytest.mark.parametrize("auth", ["auth.py:authenticate", "project_auth.py:my_auth"])
async def test_whoever_is_in_no_list_is_not_let_in(tmp_path: Path, auth: str) -> None:
    file = auth.partition(":")[0]
    (program,) = (block.text for block in blocks_of(DOCS / "access.md") if block.file == file)
    (tmp_path / file).write_text(program)
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'keys.db'}", access=AccessSettings(auth=f"{tmp_path}/{auth}")
    )

    async with (
        open_app(settings, {}) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app.asgi), base_url="http://server") as http,
    ):
        answers = [
            await http.post("/threads", json={}, headers={} if key is None else {"x-api-key": key})
            for key in (None, "", "letme-", "letme-eve", "ada", "letme-ada")
        ]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 401, 401, 200]
