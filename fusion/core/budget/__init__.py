"""Nested spending limits: the worst case of every attempt is reserved before it and settled after it.

A run has a Budget, a stage may have one of its own beneath it, and every attempt of a call reserves at its
stage's budget, which books it at each level up to the run's. At every level, at every instant,

    spent + reserved <= limit

however many calls run at once; held-back amounts count as reserved. Only a provider that returns more than requested
can exceed a limit: the excess is counted in full, and every later reservation fails.

All of it runs on one event loop, and nothing is awaited between a check and its booking: there are no locks. A level
that all processes of a store share spends from leases of its account in the same way, and awaits the next one.
"""

from fusion.core.budget.accounts import Account as Account
from fusion.core.budget.accounts import Bid as Bid
from fusion.core.budget.accounts import Standing as Standing
from fusion.core.budget.accounts import account_at as account_at
from fusion.core.budget.amounts import UNLIMITED as UNLIMITED
from fusion.core.budget.amounts import Amount as Amount
from fusion.core.budget.amounts import Caps as Caps
from fusion.core.budget.amounts import LimitName as LimitName
from fusion.core.budget.budget import Budget as Budget
from fusion.core.budget.context import attempt as attempt
from fusion.core.budget.context import current as current
from fusion.core.budget.context import essential as essential
from fusion.core.budget.context import optional as optional
from fusion.core.budget.given import BudgetGiven as BudgetGiven
from fusion.core.budget.given import limits_of as limits_of
from fusion.core.budget.given import over as over
from fusion.core.budget.hold import Hold as Hold
from fusion.core.budget.leased import Leased as Leased
from fusion.core.budget.messages import passed as passed
from fusion.core.budget.reservation import Closed as Closed
from fusion.core.budget.reservation import Ledger as Ledger
from fusion.core.budget.reservation import Reservation as Reservation
from fusion.core.budget.terms import Draws as Draws
