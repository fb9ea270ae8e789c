"""The history of the tables, as Alembic runs it. Migrations do not import the declared tables, which go on changing."""
