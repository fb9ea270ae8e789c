"""Everything outside the harness: what is stored, served, shown and sent; may import the harness, never the other way."""
