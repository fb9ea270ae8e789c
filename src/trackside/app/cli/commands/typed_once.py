"""How every command is typed: an option that takes one value only once. Also notes in errors which records were asked.

If an option were typed twice, the parser alone would keep the last value, and not say so.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand

from trackside.harness.errors import TracksideError


class TypedCommand(TyperCommand):
    """A command that refuses an option typed twice, unless it may be repeated. A flag may: twice means the same."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            TracksideError: as the command raises it; its `asked_at` holds the flags for the place that was asked.
        """
        try:
            return super().invoke(ctx)
        except TracksideError as exc:
            from trackside.app.cli.suggesting import flags_of

            exc.__dict__["asked_at"] = flags_of(ctx.params)
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed.

        Raises:
            UsageError: an option was typed twice.
        """
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for param, times in Counter(order).items():
                if times > 1 and param.param_type_name == "option" and not _may_be_repeated(param):
                    name = max(param.opts, key=len)
                    ctx.fail(f"{name} takes one value, and was typed {times} times")
        return super().parse_args(ctx, args)


def type_once(app: typer.Typer) -> None:
    """Make every command below this a `TypedCommand`."""
    for command in app.registered_commands:
        command.cls = TypedCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            type_once(group.typer_instance)


def _may_be_repeated(option: Any) -> bool:
    return bool(option.multiple or option.is_flag or option.count)
