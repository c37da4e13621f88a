"""panel: several models, or several samples of one, answer the same prompt."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fusion.core.budget import essential, optional
from fusion.core.errors import BudgetError, FusionError, ModelError, StageError, Waits, first_error
from fusion.core.params import Cacheable, Temperature
from fusion.core.types import Failure, Item, Message
from fusion.stages.base import OutputField, Prompted, Shaped, whole
from fusion.stages.context import Answer, Ask, StageContext
from fusion.stages.fields import Texts, short_form
from fusion.stages.hands.spec import Hands
from fusion.stages.hands.work import worked
from fusion.stages.simulation import Estimate
from fusion.stages.verification.labels import MOST_LABELS, labels, shuffled

if TYPE_CHECKING:
    from asyncio import Task


_PATIENCE_WITH_SEVERAL: Final = 2.0
_LEAST_SECONDS: Final = 0.2  # keeps chance from deciding between simultaneous answers
_CLEARLY_SLOWER: Final = 2.0


class PanelMember(Hands):
    """A member: a role, the number of its answers, and the tools it may call. Short form: the role alone."""

    role: str = Field(description="The role that answers.")
    samples: int = Field(default=1, ge=1, description="Number of its answers, each from a call of its own.")
    temperature: Temperature = None


def _one_or_many(given: Any) -> Any:
    return given if isinstance(given, (list, tuple)) else (given,)


def _fits(members: tuple[PanelMember, ...]) -> tuple[PanelMember, ...]:
    count = sum(member.samples for member in members)
    if not 1 <= count <= MOST_LABELS:
        raise ValueError(f"a panel of {count}; it has 1 to {MOST_LABELS} members, samples counted")
    return members


Members = Annotated[
    tuple[Annotated[PanelMember, BeforeValidator(short_form("role"))], ...],
    BeforeValidator(_one_or_many, json_schema_input_type=str | PanelMember | tuple[str | PanelMember, ...]),
    AfterValidator(_fits),
]


class _Seat(NamedTuple):
    """A seat of the panel: its number, step and member, and the number of seats before it with its role."""

    number: int
    step: str
    member: PanelMember
    sample: int


class Panel(Prompted, Shaped, Cacheable):
    """Sends one prompt to several roles, or several times to one, at once. Field: `answers`.

    Each answer has a label (`item.label`) that does not reveal its model, and their order is random but fixed by run
    and stage, so that no reader can prefer a model or a place. `item.member` is the number of the member, `item.role`
    its role.

    An empty, refused or truncated answer does not count. After `min_ok` answers, the others are waited for during
    `grace`, then cancelled; their cost is counted. Without `grace` the time is learned from the answers: while
    several are missing, they have twice the time of the slowest answer; the last of n members has 1/(n + 2) more than
    it; a model known to be much slower has as many times more.

    Embedded models share the processor: their members are called one after another.
    """

    kind: Literal["panel"] = "panel"
    on_error: Literal["fail", "skip", "refill"] = Field(  # type: ignore[assignment]
        default="skip", description="Effect of a member without an answer: end the run, leave it out, or replace it."
    )
    members: Members = Field(description="The members: roles, or {role, samples, temperature, tools}.")
    temperature: Temperature = None
    min_ok: int | None = Field(
        default=None, ge=0, description="Answers needed to begin `grace`, and at the end; else over half, and one."
    )
    grace: float | None = Field(default=None, ge=0, description="Seconds for stragglers; by default learned.")
    refill: Texts = Field(default=(), description="Roles that replace a member in turn; else the other members'.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("answers", feed=True),)
    loses: ClassVar[bool] = False
    keeps_time: ClassVar[bool] = True
    default_prompt: ClassVar[str] = "panel/default"
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "A call for each member, cancelled stragglers included; one more for each replaced member, and for each "
            "answer that does not match the `schema` at first. With `tools` of a member, up to its `max_steps`, "
            "twice for a model without functions."
        ),
        example="""\
inputs: {question: A question.}
stages:
  panel: {kind: panel, members: [frontier, {role: bulk, samples: 2}], min_ok: 2}
  answer: {kind: synthesize, over: panel}
output: answer
""",
        calls=lambda stage, items, within: stage._most_calls(),
        items=lambda stage, items: len(stage.seats),
    )

    @model_validator(mode="after")
    def _is_whole(self) -> "Panel":
        if self.min_ok is not None and self.min_ok > len(self.seats):
            raise ValueError(f"min_ok {self.min_ok} is more than the panel's {len(self.seats)} members")
        if self.refill and self.on_error != "refill":
            raise ValueError("`refill` has no effect without `on_error: refill`")
        for member in self.members:
            heat = self.temperature if member.temperature is None else member.temperature
            if member.samples > 1 and heat == 0:
                raise ValueError(f"{member.samples} samples of {member.role!r} at temperature 0 are all the same")
        return self

    @property
    def seats(self) -> list[_Seat]:
        """The seats of the panel, in the order of its members."""
        alone = len(self.members) == 1
        steps = [
            (f"sample-{sample}" if alone else f"member-{label.lower()}-sample-{sample}", member)
            if member.samples > 1
            else (f"member-{label.lower()}", member)
            for label, member in zip(labels(len(self.members)), self.members, strict=True)
            for sample in range(1, member.samples + 1)
        ]
        roles = [member.role for _, member in steps]
        return [_Seat(at + 1, step, member, roles[:at].count(member.role)) for at, (step, member) in enumerate(steps)]

    def roles(self) -> Iterator[tuple[str, str]]:
        for at, member in enumerate(self.members):
            yield f"members.{at}", member.role
        for at, role in enumerate(self.refill):
            yield f"refill.{at}", role

    @property
    def acts(self) -> bool:
        return any(member.has_hands for member in self.members)

    @property
    def most_tool_calls(self) -> int:
        seats = (seat for seat in self.seats if seat.member.tools)
        return sum((1 + len(self.substitutes(seat))) * seat.member.max_tool_calls for seat in seats)

    def tools_used(self) -> Iterator[tuple[str, str]]:
        for at, member in enumerate(self.members):
            yield from ((f"members.{at}.tools", name) for name in member.tools)

    def _most_calls(self) -> int:
        """Return the most calls of the panel, substitutes included."""
        shaped = self.output_schema is not None
        return sum(
            (1 + len(self.substitutes(seat)))
            * (seat.member.most_asked if seat.member.has_hands else self.calls_of_an_answer(shaped=shaped))
            for seat in self.seats
        )

    def calls_of_an_answer(self, *, shaped: bool) -> int:
        """Return the most calls of an answer, replacements aside."""
        return 2 if shaped else 1

    def substitutes(self, seat: _Seat) -> tuple[str, ...]:
        """Return the roles that are called in turn if the member of this seat has no answer."""
        if self.on_error != "refill":
            return ()
        roles = [member.role for member in self.members]
        at = roles.index(seat.member.role)
        others = dict.fromkeys(role for role in roles[at + 1 :] + roles[:at] if role != seat.member.role)
        return self.refill or tuple(others) or (seat.member.role,)

    async def run(self, ctx: StageContext) -> None:
        sitting = _Sitting(self, ctx)
        try:
            async with ctx.time_limit():
                await sitting.all()
        except TimeoutError:
            sitting.out_of_time()
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        sitting.check_enough()


class _Sitting:
    """One run of a panel: its open seats, its answers, and the time for those that are missing."""

    def __init__(self, panel: Panel, ctx: StageContext) -> None:
        from asyncio import Lock  # here: checking and drawing stages needs no event loop

        self._panel = panel
        self._ctx = ctx
        self._messages: tuple[Message, ...] = ()
        self._clock = ctx.now
        self._one_at_a_time = Lock()
        self._last_resort = Lock()
        seats = panel.seats
        order = shuffled(len(seats), ctx.seed)
        self._places = {seats[number].number: place for place, number in enumerate(order)}
        self._labels = labels(len(seats))
        self._open = {seat.number: seat for seat in seats}
        self._asked: dict[int, tuple[str, str, float]] = {}  # of a seat: role, step and start of its current call
        self._took: list[tuple[str, float]] = []  # of each answer: its model and seconds
        self._enough_since: float | None = None
        self._failed: list[FusionError] = []
        self._waits: Waits | None = None

    async def all(self) -> None:
        from asyncio import TaskGroup

        self._messages = self._ctx.inputs.render(self._panel.template, await self._ctx.inputs.values())
        self._ctx.outputs.grow(len(self._open), final=True)
        async with TaskGroup() as group:
            await self._watch({group.create_task(self._fill_or_wait(seat)): seat for seat in self._panel.seats})
        if self._waits is not None:
            raise self._waits

    async def _watch(self, tasks: "dict[Task[None], _Seat]") -> None:
        """Wait for the answers, and cancel overdue calls."""
        from asyncio import FIRST_COMPLETED, wait

        waiting = set(tasks)
        while waiting:
            done, waiting = await wait(waiting, timeout=self._patience(), return_when=FIRST_COMPLETED)
            if any(not task.cancelled() and task.exception() for task in done):
                return  # the group cancels the rest and raises the error
            why = self._hopeless()
            for task in list(waiting):
                if reason := why or self._overdue(tasks[task]):
                    task.cancel()
                    self._give_up(tasks[task], reason)
                    waiting.discard(task)

    async def _fill_or_wait(self, seat: _Seat) -> None:
        """Fill a seat; one whose member waits for a person stays open, and holds up no other."""
        try:
            await self._fill(seat)
        except Waits as signal:
            self._waits = signal

    async def _fill(self, seat: _Seat) -> None:
        """Call the member of a seat, then its substitutes; the item is the first usable answer."""
        steps = [(seat.member.role, seat.step)]
        replacing = enumerate(self._panel.substitutes(seat), start=1)
        steps += [(role, f"{seat.step}-refill-{number}") for number, role in replacing]
        for at, (role, step) in enumerate(steps):
            item = self._item(seat, role)
            given_up = self._ctx.journal.kept("given up", item=item.index, of=self._ask(seat, role, step))
            if given_up is not None:
                return self._settle(item.failed(Failure.model_validate(given_up)))
            try:
                return self._settle(await self._afforded(seat, role, step))
            except BudgetError as error:
                if not self._ctx.finishing:
                    raise
                return self._settle(item.failed(error.as_failure()))
            except ModelError as error:
                if self._panel.on_error == "fail":
                    raise
                self._ctx.journal.set_aside(error)
                self._failed.append(error)
                if at + 1 == len(steps):
                    return self._settle(item.failed(_failure(seat, role, error)))
                following = steps[at + 1][0]
                self._ctx.events.note(f"{step} has no answer ({error}); asking {following!r}", item=item.index)
        return None

    async def _afforded(self, seat: _Seat, role: str, step: str) -> Item:
        """Return the answer of a member; without enough others, what is held back may pay for it."""
        try:
            with optional():
                return await self._asked_once(seat, role, step)
        except BudgetError as refusal:
            async with self._last_resort:
                if not essential.get() or self._usable >= max(self._ctx.wanted(len(self._panel.seats)), self._needed):
                    raise
                item = await self._asked_once(seat, role, step)
            self._ctx.models.afforded(refusal)
            return item

    async def _asked_once(self, seat: _Seat, role: str, step: str) -> Item:
        item = self._item(seat, role)
        async with AsyncExitStack() as turn:
            if self._ctx.models.info(role).local:
                await turn.enter_async_context(self._one_at_a_time)
            begun = self._clock()
            self._asked[seat.number] = role, step, begun
            answer = whole(await self._answer(seat, role, step))
            self._took.append((answer.by, self._clock() - begun))
            return item.worked(answer.value, answer.by)

    async def _answer(self, seat: _Seat, role: str, step: str) -> Answer:
        ask, member = self._ask(seat, role, step), seat.member
        if not member.has_hands:
            return await self._ctx.models.call(ask)
        return await worked(self._ctx, ask, member, self._ctx.models.call)

    def _ask(self, seat: _Seat, role: str, step: str) -> Ask:
        panel = self._panel
        return Ask(
            role=role,
            messages=self._messages,
            step=step,
            item=self._places[seat.number],
            schema=self._ctx.inputs.schema("schema"),
            max_tokens=panel.max_tokens,
            temperature=panel.temperature if seat.member.temperature is None else seat.member.temperature,
            sample=seat.sample,
        )

    def _item(self, seat: _Seat, role: str) -> Item:
        place = self._places[seat.number]
        source = {"label": self._labels[place], "member": seat.number, "role": role}
        return Item(index=place, source=source)

    def _settle(self, item: Item) -> None:
        """Hand on the item of a seat, with or without an answer, unless the seat is closed."""
        if self._open.pop(item.source["member"], None) is not None:
            self._ctx.outputs.settle(item)

    # Time.

    @property
    def _usable(self) -> int:
        return sum(item.ok for item in self._ctx.outputs.feed("answers").so_far)

    def _enough(self) -> bool:
        """Return True once there are enough answers for the others to be stragglers."""
        seats = len(self._panel.seats)
        failed = seats - len(self._open) - self._usable
        wanted = self._panel.min_ok
        if wanted is None:
            wanted = min(seats // 2 + 1, max(1, seats - failed - 1))
        return self._usable >= wanted

    def _patience(self) -> float | None:
        """Return the seconds until the next call is overdue, None while none can be."""
        if not self._enough():
            return None
        if self._enough_since is None:
            self._enough_since = self._clock()
        ends = [end for seat in self._open.values() if (end := self._end(seat)) is not None]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def _end(self, seat: _Seat) -> float | None:
        """Return the time until which a seat is waited for; None before its call."""
        if self._panel.grace is not None:
            assert self._enough_since is not None
            return self._enough_since + self._panel.grace
        if seat.number not in self._asked or not self._took:
            return None
        role, _, begun = self._asked[seat.number]
        model = self._ctx.models.info(role).id
        slowest = max(seconds * self._slower(model, than) for than, seconds in self._took)
        patience = 1 + 1 / (len(self._panel.seats) + 2) if len(self._open) == 1 else _PATIENCE_WITH_SEVERAL
        return begun + max(slowest * patience, slowest + _LEAST_SECONDS)

    def _slower(self, model: str, than: str) -> float:
        """Return the factor by which a model is known to be slower than another; 1 unless clearly slower."""
        one, other = self._ctx.models.speed.quantile(model), self._ctx.models.speed.quantile(than)
        times = one / other if one and other else 1.0
        return times if times > _CLEARLY_SLOWER else 1.0

    def _overdue(self, seat: _Seat) -> str:
        if seat.number not in self._open or not self._enough():
            return ""
        self._patience()
        end = self._end(seat)
        if end is None or self._clock() < end:
            return ""
        return f"no longer waited for: {self._usable} of {len(self._panel.seats)} have answered"

    def _hopeless(self) -> str:
        """Return the reason to stop waiting for all; empty while enough answers are possible."""
        wanted = self._panel.min_ok
        if wanted is None or self._usable + len(self._open) >= wanted:
            return ""
        return f"no longer waited for: {wanted} answers are needed and cannot be reached"

    # The end.

    def _give_up(self, seat: _Seat, reason: str) -> None:
        role, step, _ = self._asked.get(seat.number, (seat.member.role, seat.step, 0.0))
        failure = _failure(seat, role, StageError(reason))
        item = self._item(seat, role).failed(failure)
        self._ctx.journal.keep("given up", failure.model_dump(), item=item.index, of=self._ask(seat, role, step))
        self._settle(item)

    def out_of_time(self) -> None:
        for seat in list(self._open.values()):
            self._give_up(seat, f"not done within the stage's timeout of {self._panel.timeout:g} s")

    @property
    def _needed(self) -> int:
        return 1 if self._panel.min_ok is None else self._panel.min_ok

    def check_enough(self) -> None:
        wanted = self._needed
        if self._usable >= wanted:
            return
        stops = [error for error in self._failed if isinstance(error, ModelError) and error.stops]
        if len(stops) == len(self._panel.seats):
            raise stops[0]
        why = "; ".join(
            item.failure.message for item in self._ctx.outputs.feed("answers").so_far if item.failure is not None
        )
        raise StageError(f"{self._usable} of {len(self._panel.seats)} members answered, {wanted} are needed: {why}")


def _failure(seat: _Seat, role: str, error: FusionError) -> Failure:
    return Failure(reason=type(error).__name__, message=f"{seat.step} ({role}): {error}")
