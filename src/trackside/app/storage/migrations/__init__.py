"""The history of the tables, as Alembic runs it. Migrations do not import the declared tables: these go on changing."""
