"""The pace of calls: slots and rates, from the user's ceilings, a server's headers and its refusals."""

from fusion.models.pace.gate import Gate, Ticket, patience
from fusion.models.pace.pace import Pace

__all__ = ["Gate", "Pace", "Ticket", "patience"]
