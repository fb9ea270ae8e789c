"""What is read: pages, single records, totals, and what followers of the log hear."""
