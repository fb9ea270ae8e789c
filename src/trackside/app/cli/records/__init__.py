"""What was recorded, in the form that commands need, whether a database or a server has it."""
