"""Takes secrets out of texts that somebody else wrote, who may have put them there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.entities import codepoint2name
from typing import Final
from urllib.parse import unquote

__all__ = ["parts_of", "without_secrets"]

_SEPARATORS: Final = re.compile(r"[/:@?&=,;#]+")
_SHORTEST: Final = 4  # characters; a shorter one stands in too many words, which tell it then
_PIECES: Final = re.compile(r"\\+|.", re.DOTALL)  # backslashes are doubled all together, or not at all
_PLAIN: Final = re.compile("[0-9A-Za-z]+")  # written as they are everywhere


def without_secrets(text: str, shown: Mapping[str, str]) -> str:
    """A text with something else in the place of each secret. Of less than four characters, none is hidden.

    One is also found as JSON, HTML or an address has it: who repeats what he was sent does so in one of these.

    Args:
        text: the text.
        shown: what to show, by secret.
    """
    for secret in sorted(shown, key=len, reverse=True):  # one may be part of another
        if len(secret) >= _SHORTEST and all(word in text for word in _PLAIN.findall(secret)):
            text = re.sub("".join(map(_spelt, _PIECES.findall(secret))), shown[secret].replace("\\", r"\\"), text)
    return text


def parts_of(address: str) -> set[str]:
    """An address, or a piece of one, and what stands in it between signs; all that with percent signs, and without."""
    parts = {address, *_SEPARATORS.split(address)}
    return parts | {unquote(part) for part in parts}


def _spelt(piece: str) -> str:
    """A pattern of a character, or of several backslashes, and of all that stands for it elsewhere."""
    sign = piece[0]
    if _PLAIN.fullmatch(sign):
        return sign
    code, units = ord(sign), sign.encode("utf-16-be", "surrogatepass")
    in_json = "".join(rf"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    in_html = rf"&#0*{code};|&#x0*{code:x};"
    in_address = "".join(f"%{byte:02x}" for byte in sign.encode(errors="surrogatepass"))
    ways = [f"(?i:{in_json}|{in_html}|{in_address})"]
    if (name := "apos" if sign == "'" else codepoint2name.get(code)) is not None:
        ways.append(f"&{name};")
    if (escaped := r"\/" if sign == "/" else json.dumps(sign, ensure_ascii=False)[1:-1]) != sign:
        ways.append(re.escape(escaped))
    ways += [r"\+", " "] if sign == " " else [re.escape(sign)]  # last, for some of the others begin with it
    return f"(?:{'|'.join(f'(?:{way}){{{len(piece)}}}' for way in ways)})"
