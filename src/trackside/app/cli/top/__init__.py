"""`trackside top`: runs as they happen, on a screen of the terminal."""
