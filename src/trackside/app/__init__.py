"""Everything outside the harness: what is stored, served, shown and sent. It may import the harness, not vice versa."""
