"""The demo: agents of three frameworks work on five threads, watched live and afterwards looked up in the database.

`scenario` says what runs, `by_rules` holds two of its agents, `view` shows it, `report` reads the database, `command`
puts it all together.
"""
