"""Version 2 of the protocol, which is about threads: commands on a thread, and its events while a client stays."""
