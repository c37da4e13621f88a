"""Receipt of a run: its spending by stage, role and model, and its time by cause."""

from fusion.engine.receipt.accounts import Accounts, Before, before
from fusion.engine.receipt.path import upstreams

__all__ = ["Accounts", "Before", "before", "upstreams"]
