"""The demo of a stranger, who has nothing but a Python, pip and this checkout, and does what README.md says.

`readme` has its blocks, `shell` is where they are typed, `tour` goes through them and looks what came of each, `crowd` keeps
runs going while the server is killed, `ledger` counts afterwards what is left of them. Only the standard library is used:
what else is needed, README.md has to have installed.
"""
