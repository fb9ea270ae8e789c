"""The engine on nothing but PostgreSQL: notices that are directed at one worker, live output through a table.

It knows the bus and the fleet of a store, but no SQL.
"""

from trackside.app.engine.postgres._engine import PostgresEngine, open_postgres

__all__ = ["PostgresEngine", "open_postgres"]
