"""What was recorded, as commands ask for it, whether a database or a server has it."""
