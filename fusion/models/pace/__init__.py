"""The pace of calls: slots and rates, from the user's ceilings, a server's headers and its refusals."""

from fusion.models.pace.gate import Gate as Gate
from fusion.models.pace.gate import Rates as Rates
from fusion.models.pace.gate import Ticket as Ticket
from fusion.models.pace.gate import patience as patience
from fusion.models.pace.gate import spare as spare
from fusion.models.pace.pace import Pace as Pace
