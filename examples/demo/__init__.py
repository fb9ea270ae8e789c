"""The demo: agents of three frameworks at work on five threads, watched live, and afterwards looked up in the database.

`scenario` says what is run, `by_rules` has two of its agents, `view` shows it, `report` reads the database, `command` puts
them together.
"""
