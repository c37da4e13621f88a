"""Receipt of a run: its spending by stage, role and model, and its time by cause."""

from fusion.engine.receipt.accounts import Accounts, Before, before

__all__ = ["Accounts", "Before", "before"]
