"""Variables in a file, as shells and most tools read them: `NAME=value`, one per line, with quotes where needed.

No part of a value ever gets into a message: it may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from trackside.app.settings.errors import SettingsError

_NAME: Final = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*")
_SINGLE: Final = re.compile(r"'([^']*)'")
_DOUBLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN: Final = re.compile(r"[^\r\n]*")
_COMMENT: Final = re.compile(r"[ \t]+#.*")  # with no blank before it, `#` belongs to the value, even at its beginning
_REST: Final = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?:\r?\n|\Z)")
_SKIPPED: Final = re.compile(r"[^\S\n]*(?:#[^\n]*)?(?:\n|\Z)")  # blank to other tools, too: form feeds, no-break spaces
_ESCAPE: Final = re.compile(r"""\\([nrt"'\\$`])""")  # any other backslash stays, as in shells: `CORP\svc`, `\d+`
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t"}
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_PART: Final = re.compile(f"{_ESCAPE.pattern}|{_REFERENCE.pattern}")


def variables_in(text: str, source: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a file sets, in its order; `${NAME}` and `${NAME:-default}` stand for others, those of the
    environment first.

    Raises:
        SettingsError: a line is not of this form; the message says which.
    """
    if (at := text.find("\0")) >= 0:
        raise _complaint(text, at, source, "it has NUL in it, which no variable can have")
    found: dict[str, str] = {}
    for name, value, quote in _assignments(text, source):
        found[name] = _resolved(value, quote, {**found, **environ})
    return found


def _assignments(text: str, source: str) -> Iterator[tuple[str, str, str]]:
    """Names, values as they are written, and the quotes around each, if any."""
    at = 1 if text.startswith("\ufeff") else 0
    while at < len(text):
        if (skipped := _SKIPPED.match(text, at)) is not None:
            at = skipped.end()
            continue
        name = _NAME.match(text, at)
        if name is None:
            raise _complaint(text, at, source, "it is not NAME=value")
        value, at, quote = _value(text, name.end(), source)
        yield name[1], value, quote


def _value(text: str, at: int, source: str) -> tuple[str, int, str]:
    quote = text[at : at + 1]
    if quote not in {"'", '"'}:
        before = at - 1 if text[at - 1] in " \t" else at
        plain = _PLAIN.match(text, before)
        assert plain is not None
        end = plain.end() + (2 if text.startswith("\r\n", plain.end()) else 1)
        return _COMMENT.sub("", plain[0]).strip(), end, ""
    quoted = (_SINGLE if quote == "'" else _DOUBLE).match(text, at)
    if quoted is None:
        raise _complaint(text, at, source, f"nothing ends what begins with {quote}")
    rest = _REST.match(text, quoted.end())
    if rest is None:
        raise _complaint(text, quoted.end(), source, f"something follows the {quote} that ends the value")
    return quoted[1], rest.end(), quote


def _resolved(value: str, quote: str, known: Mapping[str, str]) -> str:
    if quote == "'":
        return value
    if not quote:
        return _REFERENCE.sub(lambda one: known.get(one[1]) or one[2] or "", value)
    # In one pass: what an escape stands for is not part of a reference.
    return _PART.sub(lambda one: _unescaped(one[0]) if one[1] else known.get(one[2]) or _unescaped(one[3] or ""), value)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), text)


def _complaint(text: str, at: int, source: str, why: str) -> SettingsError:
    return SettingsError(where=f"{source}, line {text.count('\n', 0, at) + 1}", why=why)
