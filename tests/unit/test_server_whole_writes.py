"""That the head of an answer goes with what comes after it, and waits for nobody."""

import asyncio
from typing import override

import pytest

from trackside.app.server.whole_writes import WholeWrites

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Written(asyncio.Transport):
    """What is written, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    @override
    def write(self, data: object) -> None:
        self.pieces.append(bytes(data))  # type: ignore[call-overload]  # bytes, here

    @override
    def close(self) -> None:
        self.pieces.append(b"closed")

    @override
    def is_closing(self) -> bool:
        return self.pieces[-1:] == [b"closed"]


@pytest.fixture
def written() -> Written:
    return Written()


async def test_head_and_body_are_one_write(written: Written) -> None:
    transport = WholeWrites(written, asyncio.get_running_loop())

    transport.write(HEAD)
    transport.write(b"42")
    transport.write(b"more")
    await asyncio.sleep(0)

    assert written.pieces == [HEAD + b"42", b"more"]


async def test_head_goes_when_the_loop_comes_round(written: Written) -> None:
    transport = WholeWrites(written, asyncio.get_running_loop())

    transport.write(HEAD)
    assert written.pieces == []
    await asyncio.sleep(0)
    transport.write(b"42")

    assert written.pieces == [HEAD, b"42"]


async def test_two_heads_in_one_turn_keep_their_order(written: Written) -> None:
    transport = WholeWrites(written, asyncio.get_running_loop())

    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    transport.write(HEAD)
    transport.write(HEAD)
    transport.write(b"42")

    assert b"".join(written.pieces) == b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + HEAD + b"42"


async def test_head_is_written_before_the_connection_closes(written: Written) -> None:
    transport = WholeWrites(written, asyncio.get_running_loop())

    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)

    assert written.pieces == [HEAD, b"closed"]
    assert transport.is_closing()
