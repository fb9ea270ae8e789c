"""A Trackside observer that keeps a ledger: one line of a CSV file for what each run used and cost."""

from trackside_cost_ledger.ledger import CostLedger

__all__ = ["CostLedger"]
