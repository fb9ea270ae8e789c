"""The commands about API keys, and their options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside.app.cli.commands.options import Database, Json, Yes, only_here

app = typer.Typer()
auth = typer.Typer(no_args_is_help=True, help="API keys, by which clients tell a server who they are.")
app.add_typer(auth, name="auth")


_KEYS = "keys are made and revoked where the database is, which no server does for others"


class Permission(StrEnum):
    """What may be done with a key. Each includes those before it."""

    read = "read"
    run = "run"
    admin = "admin"


@auth.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the key.")],
    owner: Annotated[
        str | None,
        typer.Option(metavar="OWNER", help="Whose threads the key creates and sees.", show_default="NAME"),
    ] = None,
    permission: Annotated[
        Permission,
        typer.Option(
            "--permission",
            "-p",
            metavar="|".join(Permission),
            help="See the owner's threads, also create them and start runs, or do everything with everybody's.",
        ),
    ] = Permission.run,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long the key is valid: 12h, 90d.", show_default="for ever"),
    ] = None,
    database: Database = None,
    url: Annotated[str | None, only_here(_KEYS)] = None,
    json: Json = False,
) -> int:
    """Create an API key, and write it to standard output, this one time only."""
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
    all: Annotated[bool, typer.Option("--all", "-a", help="Also show keys that are not valid any more.")] = False,
    database: Database = None,
    url: Annotated[str | None, only_here(_KEYS)] = None,
    json: Json = False,
) -> int:
    """Show which API keys there are, but never the keys themselves."""
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
    """Revoke an API key, so that it lets nobody in any more; running servers know within two seconds."""
    from trackside.app.cli.actions import keys

    return keys.revoke(database, key_id, yes=yes, json=json)
