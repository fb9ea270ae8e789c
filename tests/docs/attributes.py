"""What the texts below the attributes of a class say of them; Python does not keep these texts."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import get_original_bases


def said_of_attributes(kind: type) -> dict[str, str]:
    """The text below each attribute of a class, then those of its bases, on one line, where there is one."""
    found: dict[str, str] = {}
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(declared, ast.ClassDef)
    for attribute, below in zip(declared.body, declared.body[1:], strict=False):
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
            match below:
                case ast.Expr(ast.Constant(str(text))):
                    found[attribute.target.id] = " ".join(text.split())
                case _:
                    pass
    for base in get_original_bases(kind):
        if isinstance(base, type) and base.__module__.startswith("trackside"):
            found |= said_of_attributes(base)
    return found
