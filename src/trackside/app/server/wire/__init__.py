"""What goes over the wire: what clients send, checked when it is decoded, and what they get."""
