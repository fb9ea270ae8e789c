"""Observers with a name and a cursor: what is kept of them, and each of their steps as a work."""
