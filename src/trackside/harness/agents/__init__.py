"""What the adapters of all frameworks have in common, and what is done alike for agents of any kind."""
