"""The demo: the research agent at work on three threads, watched live, and afterwards looked up in the database.

`scenario` says what is run, `view` shows it, `report` reads the database, `__main__` puts them together.
"""
