"""What a manager is made of: the runs that it executes, from their admission to their end, and how it closes."""
