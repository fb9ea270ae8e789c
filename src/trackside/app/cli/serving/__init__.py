"""Processes that serve others until they are told to stop: a server, a worker, a whole fleet on this machine."""
