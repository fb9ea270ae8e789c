"""An observer of Trackside that keeps a ledger: a line of a CSV file for what each run has used and cost."""

from trackside_cost_ledger.ledger import CostLedger

__all__ = ["CostLedger"]
