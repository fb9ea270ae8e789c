"""How one subscription is fed: its policy, its window, one stretch of it under one lease."""
