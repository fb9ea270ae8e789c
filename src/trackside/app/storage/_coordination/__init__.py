"""The queue, and the workers at it: each step of a coordinator as a work, leases, recovery, duties."""
