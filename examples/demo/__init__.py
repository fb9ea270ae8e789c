"""The demo: agents of three frameworks at work on five threads, watched live, and afterwards looked up in the database.

`scenario` says what is run, `view` shows it, `report` reads the database, `__main__` puts them together.
"""
