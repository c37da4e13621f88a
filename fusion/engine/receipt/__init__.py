"""Receipt of a run: its spending by stage, role and model, and its time by cause."""

from fusion.engine.receipt.accounts import Accounts as Accounts
from fusion.engine.receipt.accounts import Before as Before
from fusion.engine.receipt.accounts import before as before
from fusion.engine.receipt.budgets import told as told
from fusion.engine.receipt.item_costs import ItemCosts as ItemCosts
from fusion.engine.receipt.item_costs import spending as spending
from fusion.engine.receipt.item_costs import spent as spent
from fusion.engine.receipt.path import upstreams as upstreams
