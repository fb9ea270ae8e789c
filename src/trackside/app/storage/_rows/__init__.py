"""The rows of the log: their tables, how times and JSON look in them, what events do to them."""
