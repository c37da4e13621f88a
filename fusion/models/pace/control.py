"""Control: finds the rate and the concurrency that a model's server takes, from what it refuses."""

from collections import deque
from typing import Final, Literal

from fusion.models.pace.meter import Meter

Mode = Literal["free", "rate", "slots"]

_FIRST: Final = 4
"""Calls that start at once at a model that has not been called."""
_STEPS: Final = ((16, 0.002, 1.15), (100_000, 0.001, 1.25))
"""Growth of the concurrency: up to the first figure, each so many seconds, by the last. 256 calls take some 40 ms."""
_PAUSE: Final = 0.005
"""Seconds without growth after a refusal, until it is known if a row of them follows."""
_MOST: Final = 100_000
_MARKS: Final = 2_048
_RECENT: Final = 8
_FEW: Final = 3
_ROWS: Final = ((64, 3), (128, 5), (_MARKS, 8))
"""Refusals in a row that show a limit, by the requests of the last seconds."""
_QUIET: Final = 1.5
"""Seconds between two cuts that have nothing to do with each other."""
_STRAYS: Final = 6
"""Refusals at proven paces after which they are known not to follow the pace."""
_WRONG: Final = 3
"""Cuts of the concurrency in a row after which the rate is taken for the limit."""
_DEAF: Final = 30.0
_PLATEAU: Final = 6.0
"""Seconds of use at a measured pace before a higher one is tried."""
_MARGIN: Final = 0.97
_BURST: Final = 0.05
"""Seconds in which the refusals of a burst arrive, before a probe."""
_ENOUGH: Final = 5
"""Admitted requests that measure a rate."""
_SILENCE: Final = 1.0
"""Seconds without a reply after which a server that refuses a row of requests admits nothing."""


class Control:
    """The pace of one model as its server shows it. Times are seconds of one clock; nothing here waits.

    In mode `free` nothing is limited but the first milliseconds: the concurrency grows by a quarter each millisecond,
    so that a server that refuses says so before hundreds of calls are sent. Single refusals do not count, since a
    proxy may refuse at random; a row of them shows a limit.

    In mode `rate` requests are spaced evenly. The first rate is the number that was admitted in the second before
    (or up to the end of the Retry-After): a server that refuses has just admitted all that it will. Between two
    refusals a server at its limit has admitted exactly its rate, so that each further refusal measures the rate anew,
    as BBR measures a bottleneck by what was delivered (Cardwell et al., ACM Queue, 2016). A measured rate is held for
    some seconds of use at 97%, then grows, slowly at first, until the next refusal. A rate that cannot be measured
    yet, since too little was admitted, is cut by a quarter; where nothing was, the pause doubles.

    In mode `slots` the concurrency is limited: additive increase on success while the limit is in use, multiplicative
    decrease once a round trip on refusals and refused connections (AIMD; Chiu and Jain, 1989). A refusal may mean
    either: the first call that ends is replaced by one probe, which a limit of the rate refuses and a limit of the
    concurrency admits.

    Refusals that go on while the pace falls do not follow it: the mode is `free` again, and takes more of them as a
    sign. Latency plays no part, since it follows the length of an answer.
    """

    def __init__(self) -> None:
        self.mode: Mode = "free"
        self.limit = float(_FIRST)
        self.hold = 0.0
        """The time until which the server asked for no request."""
        self._meter = Meter(1.0)
        self._step_at: float | None = None
        self._number = 0
        self._answered = False
        self._marks = bytearray(_MARKS)
        self._sends: deque[float] = deque(maxlen=_MARKS)
        self._refused = 0
        self._refused_row = 0
        """Refusals since the last reply."""
        self._replied_at = -1e9
        self._cut_at = -1e9
        self._cuts = 0
        """Cuts of the current series."""
        self._since = 0
        """Requests admitted since the last cut."""
        self._resumed = 0.0
        """The time of the first of them."""
        self._measured_at = 0.0
        self._measured = 0
        """Requests admitted since the rate was measured last."""
        self._first = (0.0, 0.0)
        """The measurement of the last cut: requests admitted, and its time; until the burst before it is answered."""
        self._starved = False
        """True if a pause of several intervals was not long enough: the server counts over a longer time."""
        self._used = 0.0
        self._plateau = 0.0
        self._suspect: float | None = None
        """The concurrency that may be the limit, while it is not known if the rate is."""
        self._probe: int | None = None
        self._probing = False
        self._deaf = _DEAF
        self._deaf_until = 0.0
        self._proven = 0.0
        self._strays = 0
        """Refusals at proven paces, since the last pace that was held without one."""
        self._clean = True
        self._goal = 0.0

    @property
    def rate(self) -> float | None:
        """The requests a second, if they are limited."""
        return self._meter.rate if self.mode == "rate" else None

    def admits_nothing(self, now: float) -> bool:
        """Return True if the server has refused a row of requests, and replied to none for a while."""
        return self._refused_row >= _FEW and now - self._replied_at > _SILENCE

    @property
    def sent(self) -> int:
        """The requests sent so far."""
        return self._number

    def delay(self, now: float, open_calls: int) -> float:
        """Return the seconds until a request may be sent; infinite until another one has ended."""
        if now < self.hold:
            return 0.0 if self._probing else self.hold - now
        if self.mode == "rate":
            return 0.0 if self._probing else self._meter.delay(now)
        if open_calls < int(self.limit):
            return 0.0
        return float("inf") if self.mode == "slots" else self._step(now, open_calls)

    def send(self, now: float, *, waited: bool) -> int:
        """Count a request that is sent now; return its number."""
        self._number += 1
        self._marks[self._number % _MARKS] = 0
        if self.mode == "rate":
            self._grow(now, waited)
            self._meter.take(now)
        self._resumed = now if self._since == 0 else self._resumed
        self._sends.append(now)
        self._since += 1
        self._measured += 1
        if self._probing:
            self._probe, self._probing = self._number, False
        return self._number

    def succeed(self, number: int, now: float, open_calls: int) -> None:
        """Count a request that got its reply; `open_calls` are still without one."""
        self._answered = True
        self._refused_row, self._replied_at = 0, now
        if self.mode == "slots":
            self._increase(now, open_calls)
        elif self._suspect is not None:
            if self._suspect < _FEW:  # so few are a rate as well
                self._suspect = None
            elif number == self._probe:
                self._limit_slots(1.0 + open_calls, now, goal=self._suspect)
            elif self._probe is None and self._is_early(now):
                self._probing = True

    def _is_early(self, now: float) -> bool:
        """Return True in the first half of the pause after the first cut, when a limit of the rate admits nothing."""
        if self._since or now < self.hold:
            return False
        return self._cut_at + _BURST < now < (self._cut_at + self._meter.next) / 2

    def refuse(self, number: int, sent: float, now: float, open_calls: int, retry_after: float | None) -> None:
        """Count a refused request."""
        if number > self._number - _MARKS:
            self._marks[number % _MARKS] = 1
        self._refused += 1
        self._refused_row += 1
        wait = retry_after or 0.0
        if sent > self._cut_at:
            self._since -= 1
            self._measured -= 1
        if self.mode == "free":
            self._step_at = now + _PAUSE
            if self._shows_limit(number, now):
                self._find(now, open_calls, wait)
        elif sent <= self._cut_at:
            self._correct(now, open_calls, wait)
        elif self._is_stray(now):
            pass
        elif self.mode == "slots":
            self._cut_slots(now, open_calls, wait)
        else:
            self._cut_rate(number, now, open_calls, wait)

    def fail_to_connect(self, sent: float, now: float, open_calls: int) -> None:
        """Count a refused connection: it halves the concurrency once a round trip."""
        if self.mode == "rate" or sent <= self._cut_at:
            return
        before = self.limit if self.mode == "free" else max(self._goal, self.limit)
        self._limit_slots(min(self.limit, open_calls + 1.0) / 2, now, goal=before)

    # Free: the first milliseconds, and the first signs of a limit.

    def _step(self, now: float, open_calls: int) -> float:
        """Let the concurrency grow by a step of time; return the seconds until the next."""
        seconds, gain = next((step, gain) for most, step, gain in _STEPS if self.limit <= most)
        if self._step_at is None:
            self._step_at = now + seconds
        if now < self._step_at:
            return self._step_at - now
        self._step_at = None
        self.limit = min(max(self.limit * gain, self.limit + 1), _MOST)
        return 0.0 if open_calls < int(self.limit) else self._step(now, open_calls)

    def _shows_limit(self, number: int, now: float) -> bool:
        if not self._answered and self._refused == self._number:
            return True
        row = self._row(now)
        return number >= row and all(self._marks[(number - at) % _MARKS] for at in range(row))

    def _row(self, now: float) -> int:
        """Return the refusals in a row that show a limit: more of many requests, of which many may fail by chance."""
        if now < self._deaf_until:
            return _ROWS[-1][1]
        sends = self._sends
        return next((row for many, row in _ROWS if len(sends) < many or sends[-many] < now - _QUIET), _ROWS[-1][1])

    def _find(self, now: float, open_calls: int, wait: float) -> None:
        """Limit the rate to what was admitted just now; the concurrency may be the limit instead."""
        since = max(now - max(1.0, min(wait, 60.0)), self._cut_at)
        recent = [at for at in self._sends if at > since]
        refused = sum(self._marks[(self._number - at) % _MARKS] for at in range(min(len(recent), self._number)))
        admitted = len(recent) - refused
        self._hold(now, wait)
        if admitted < 1 and wait:
            self._cut_at, self._since, self.limit = now, 0, float(_FIRST)
            return
        admitted = max(admitted, 1)
        first = recent[0] if recent else now
        seconds = max(1.0, now + wait - first)
        self._suspect = float(open_calls) if open_calls >= _FEW else None
        self._first = float(admitted), now
        self._start_rate(admitted / seconds, now)
        self._meter.next = max(self.hold, first + seconds)
        self._measured_at, self._measured, self._cuts = now, 0, 1

    def _correct(self, now: float, open_calls: int, wait: float) -> None:
        """Take in a refusal of a burst that was answered by a cut."""
        self._hold(now, wait)
        if self._suspect is not None:
            self._suspect = max(1.0, min(self._suspect, open_calls))
        if self.mode == "slots":
            self.limit = max(1.0, min(self.limit, open_calls))
        admitted, cut_at = self._first
        if self.mode == "rate" and admitted > 1 and cut_at == self._cut_at:
            self._first = admitted - 1, cut_at
            self._meter.rate *= (admitted - 1) / admitted

    def _is_stray(self, now: float) -> bool:
        """Return True for a refusal that does not answer the pace: alone at a proven pace, or one of many such."""
        if self._suspect is not None or self._since < 1 or not self._is_proven(now):
            return False
        self._strays, self._clean = self._strays + 1, False
        recent = sum(self._marks[(self._number - at) % _MARKS] for at in range(2 * _RECENT))
        if self._strays >= _STRAYS and recent < 0.6 * 2 * _RECENT:
            self._free(now)
            return True
        return sum(self._marks[(self._number - at) % _MARKS] for at in range(_RECENT)) <= 1

    def _is_proven(self, now: float) -> bool:
        """Return True if the pace has not grown since it was measured."""
        if self.mode == "slots":
            return now - self._cut_at <= _PLATEAU or self.limit <= self._goal
        return 0 < self._used <= self._plateau

    def _passed(self) -> None:
        """Note that a pace was held as long as it should be."""
        self._strays = 0 if self._clean else self._strays
        self._clean = True

    def _hold(self, now: float, wait: float) -> None:
        if wait > 0:
            self.hold = max(self.hold, now + wait)

    # Rate: measured by each refusal, held, and tried anew.

    def _start_rate(self, rate: float, now: float) -> None:
        self.mode, self._meter.rate = "rate", rate
        self._used, self._plateau = 0.0, 0.0
        self._cut_at, self._since = now, 0
        self._probe, self._probing = None, False

    def _grow(self, now: float, waited: bool) -> None:
        """Let the rate grow with the time that it was in use: by 5% in the first second, then ever faster."""
        if not waited or not self._sends:
            return
        seconds = min(now - self._sends[-1], 2 / self._meter.rate)
        self._used += seconds
        beyond = self._used - self._plateau
        if beyond > 0:
            if beyond <= seconds:
                self._passed()
            growth = 1 + min(1.0, 0.05 * 2 ** min(beyond, 9.0))
            self._meter.rate = min(self._meter.rate * growth**seconds, float(_MOST))
        if self._since > _ENOUGH:
            self._suspect = None

    def _cut_rate(self, number: int, now: float, open_calls: int, wait: float) -> None:
        suspect, probe = self._suspect, self._probe
        self._suspect = self._probe = None
        if number == probe:  # the rate is the limit
            return
        if suspect is not None and open_calls >= suspect:
            self._limit_slots(float(open_calls), now, goal=float(open_calls))
            return
        quiet = now - self._cut_at > _QUIET and self._used > self._plateau
        self._cuts = 1 if quiet else self._cuts + 1
        admitted, rate = self._since, self._meter.rate
        if self._measured >= _ENOUGH and admitted:
            self._start_rate(_MARGIN * min(self._found(now), rate), now)
            self._plateau = _PLATEAU if self._cuts == 1 else _PLATEAU / 2
            self._measured_at, self._measured, self._starved = now, 0, False
            self._meter.next = now + 1 / self._meter.rate
        elif admitted:
            self._hold(now, wait)
            self._start_rate(0.75 * rate, now)
            self._plateau = 0.5
            self._meter.next = now + 1 / self._meter.rate
        else:
            self._hold(now, wait)
            pause = max(now - self._cut_at, 1 / rate)
            self._starved = self._starved or pause > 4 / rate
            self._meter.next = now + 2 * min(pause, 30.0)
            self._cut_at, self._since = now, 0

    def _found(self, now: float) -> float:
        """Return the requests a second admitted since the last measurement, or of late if those are more."""
        whole = self._measured / (now - self._measured_at)
        if self._starved:
            return whole
        whole = max(whole, 0.5 * self._meter.rate)
        seconds = max(1.0, _ENOUGH / self._meter.rate)
        last = self._admitted(now, seconds)
        if now - self._resumed > 2 * seconds:  # a fixed window of the server may admit more for a moment
            last = min(last, 1.05 * self._admitted(now, 2 * seconds))
        return max(whole, last)

    def _admitted(self, now: float, seconds: float) -> float:
        """Return the requests a second that were admitted in the last seconds."""
        sent = sum(1 for at in self._sends if at > now - seconds)
        refused = sum(self._marks[(self._number - at) % _MARKS] for at in range(sent))
        return (sent - refused) / seconds

    def _free(self, now: float) -> None:
        self.mode, self.limit, self._strays = "free", float(_MOST), 0
        self._deaf = 2 * self._deaf
        self._deaf_until = now + self._deaf

    # Slots: AIMD on the concurrency.

    def _limit_slots(self, limit: float, now: float, *, goal: float) -> None:
        self.mode = "slots"
        self.limit, self._goal = max(1.0, limit), max(1.0, goal)
        self._suspect, self._probe, self._probing = None, None, False
        self._cut_at, self._since = now, 0

    def _increase(self, now: float, open_calls: int) -> None:
        """Add a slot a success up to the known limit, then one a round trip, while all are in use."""
        if open_calls + 1 < int(self.limit):
            return
        if self.limit < self._goal:
            self.limit = min(self.limit + 1, self._goal)
        elif now - self._cut_at > _PLATEAU:
            if self.limit == self._goal:
                self._passed()
            self.limit += 1 / self.limit

    def _cut_slots(self, now: float, open_calls: int, wait: float) -> None:
        grown = self.limit > self._goal and now - self._cut_at > _PLATEAU
        self._cuts = 1 if grown else self._cuts + 1
        self._proven = self.limit if grown else max(self._proven, self.limit)
        if self._cuts >= _WRONG or open_calls < 0.6 * self._proven - 1:  # so few are no limit of the concurrency
            self._find(now, open_calls, wait)
            self._suspect = None
        else:
            limit = float(open_calls) if self._cuts == 1 else 0.75 * open_calls
            self._limit_slots(limit, now, goal=limit)
