"""The commands about API keys, and their options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside.app.cli.commands.options import Database, Json, Yes, only_here

app = typer.Typer()
auth = typer.Typer(no_args_is_help=True, help="API keys, with which clients of a server say who they are.")
app.add_typer(auth, name="auth")


_KEYS = "keys are made and revoked where the database is, which no server does for others"


class Permission(StrEnum):
    """What may be done with a key. Each includes those before it."""

    read = "read"
    run = "run"
    admin = "admin"


@auth.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the key.")],
    owner: Annotated[
        str | None,
        typer.Option(metavar="OWNER", help="Whose threads are made and seen with it.", show_default="NAME"),
    ] = None,
    permission: Annotated[
        Permission,
        typer.Option(
            "--permission",
            "-p",
            metavar="|".join(Permission),
            help="Look at the owner's threads, also make them and start runs, or do everything with everybody's.",
        ),
    ] = Permission.run,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="It is good for so long: 12h, 90d.", show_default="for ever"),
    ] = None,
    database: Database = None,
    url: Annotated[str | None, only_here(_KEYS)] = None,
    json: Json = False,
) -> int:
    """Make an API key, and write it to standard output: now, and never again."""
    from trackside.app.cli.actions import keys

    return keys.create(
        keys.KeyOptions(
            name=name,
            owner=name if owner is None else owner,
            permission=permission.value,
            expires=expires,
            database=database,
            json=json,
        )
    )


@auth.command(name="list")
def list_keys(
    all: Annotated[bool, typer.Option("--all", "-a", help="Those, too, that are good for nothing any more.")] = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_KEYS)] = None,
    json: Json = False,
) -> int:
    """Show which API keys there are, and never the keys themselves."""
    from trackside.app.cli.actions import keys

    return keys.show(database, all=all, json=json)


@auth.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as in `auth list` and in the key itself.")],
    yes: Yes = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_KEYS)] = None,
    json: Json = False,
) -> int:
    """Let nobody in with a key any more; servers that run know it within two seconds."""
    from trackside.app.cli.actions import keys

    return keys.revoke(database, key_id, yes=yes, json=json)
