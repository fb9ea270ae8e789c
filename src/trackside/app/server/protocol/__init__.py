"""Version 2 of the protocol, which is about threads: commands on a thread, and its events as long as a client stays."""
