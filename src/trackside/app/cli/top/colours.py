"""The colours of `trackside top`, on dark and on light backgrounds: those of the console in the browser. Needs Textual."""

from __future__ import annotations

from typing import Final

from rich.terminal_theme import TerminalTheme
from textual.theme import Theme

DARK: Final = Theme(
    "trackside-dark",
    primary="#2f5f9e",
    secondary="#7cb3ff",
    accent="#7cb3ff",
    warning="#f2b64c",
    error="#a3281d",
    success="#56d28f",
    foreground="#e7eaee",
    background="#0e1116",
    surface="#0e1116",
    panel="#1c2330",
    dark=True,
)
LIGHT: Final = Theme(
    "trackside-light",
    primary="#cfe0fb",
    secondary="#175cd3",
    accent="#175cd3",
    warning="#9a5b00",
    error="#b42318",
    success="#12703f",
    foreground="#15191f",
    background="#ffffff",
    surface="#ffffff",
    panel="#f0f2f5",
    dark=False,
)


def _terminal(background: str, foreground: str, *colours: str) -> TerminalTheme:
    """What the colour names mean: black, red, green, yellow, blue, magenta, cyan, white; bright ones are the same."""

    def channels(colour: str) -> tuple[int, int, int]:
        red, green, blue = bytes.fromhex(colour.removeprefix("#"))
        return red, green, blue

    named = [channels(colour) for colour in colours]
    return TerminalTheme(channels(background), channels(foreground), named, named)


ANSI_DARK: Final = _terminal(
    "#0e1116", "#e7eaee", "#0e1116", "#ff8f85", "#56d28f", "#f2b64c", "#7cb3ff", "#a6afbc", "#7cb3ff", "#e7eaee"
)
ANSI_LIGHT: Final = _terminal(
    "#ffffff", "#15191f", "#15191f", "#b42318", "#12703f", "#9a5b00", "#175cd3", "#5b6472", "#175cd3", "#ffffff"
)
