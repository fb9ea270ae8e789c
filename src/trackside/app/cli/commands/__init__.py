"""What the commands are typed with, and how they explain themselves; what they do is in `actions`, `serving` and `top`."""
