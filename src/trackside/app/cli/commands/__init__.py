"""How the commands are typed, and how they explain themselves; what they do is in `actions`, `serving` and `top`."""
