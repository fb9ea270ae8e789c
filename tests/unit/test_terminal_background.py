"""What terminals answer when asked for the colour of their background."""

from __future__ import annotations

import os
import pty
import termios
import threading

import pytest

from trackside.app.cli.top import background
from trackside.app.cli.top.background import brightness_of


@pytest.mark.parametrize(
    ("answer", "is_light"),
    [
        (b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\\x1b[?62;22c", True),  # xterm
        (b"\x1b]11;rgb:fd/f6/e3\x07\x1b[?6c", True),  # shorter numbers, and another terminator
        (b"\x1b]11;rgb:1e1e/1e1e/2e2e\x1b\\\x1b[?62c", False),
        (b"\x1b]11;rgb:0000/2b2b/3636\x1b\\", False),
        (b"\x1b[?1;2c", False),  # it does not say
        (b"", False),
    ],
)
def test_what_is_light(answer: bytes, is_light: bool) -> None:
    assert (brightness_of(answer) > 0.5) is is_light


def test_a_terminal_is_asked_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PATIENCE", 60.0)  # the longest wait for an answer
    outside, inside = pty.openpty()

    def answer() -> None:
        asked = b""
        while not asked.endswith(b"\x1b[c"):
            asked += os.read(outside, 100)
        os.write(outside, b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\")
        os.write(outside, b"\x1b[?62;22c")

    terminal = threading.Thread(target=answer)
    terminal.start()
    try:
        before = termios.tcgetattr(inside)
        assert brightness_of(background._answer(inside, inside)) == pytest.approx(1.0)
        assert termios.tcgetattr(inside) == before
    finally:
        terminal.join(60)
        os.close(outside)
        os.close(inside)
