"""Observers with a name and a cursor: what is kept of them, and each step as a work."""
