"""The demo of a stranger, who has nothing but a Python, pip and this checkout, and does what README.md says.

`readme` holds README.md's blocks, `shell` is where they are typed, `tour` goes through them and checks each result,
`crowd` keeps runs going while the server is killed, `ledger` counts afterwards what is left of them. Only the standard
library is used: README.md has to have anything else installed.
"""
