"""Runs migrations on the connection, and inside the transaction, of whoever opens the database."""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], on_version_apply=attributes.get("on_version_apply"))
context.run_migrations()
