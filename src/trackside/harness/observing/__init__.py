"""What stands between a run and each of its observers: limits, and the queues of those that are optional."""
