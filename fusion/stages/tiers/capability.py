"""Capability: the choice among routes by the learned accuracy and cost of their models on a label."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fusion.models.catalog.learned import Figures
from fusion.stages.context import StageContext

Learned = Callable[[str, str], Figures | None]
"""Returns the learned figures of the model of a role on a label."""


class Chosen(NamedTuple):
    """The route that is taken; None if the figures decide none. `reason` names the figures that it rests on."""

    route: str | None
    reason: str


class ByCapability:
    """Chooses routes of one stage in one run. `roles` holds the role of each route that has one.

    A route is as accurate as the lower end of the 95% interval of its accuracy on the label. With `enough`, the
    cheapest of those that reach it is chosen; without it, the most accurate. Of equally cheap ones the more accurate
    is chosen, of equally accurate ones the cheaper, then the first in the file. One of unknown cost is the dearest.
    """

    def __init__(self, ctx: StageContext, roles: Mapping[str, str], enough: float | None) -> None:
        self._ctx = ctx
        self._roles = roles
        self._enough = enough
        self._noted: set[str | None] = set()

    def choice(self, label: str | None, *, item: int | None = None) -> Chosen:
        """Return the route of a label, and the reason. A missing figure is noted once for each label."""
        known = {} if label is None else self._known(label)
        missing = [role for route, role in self._roles.items() if route not in known]
        if missing and label not in self._noted:
            self._noted.add(label)
            self._ctx.events.note(self._advice(label, missing, known), item=item)
        if label is None:
            return Chosen(None, "the text has no label")
        if not known:
            return Chosen(None, f"no route has learned figures of {label!r}")
        return self._of(label, known)

    def _known(self, label: str) -> dict[str, Figures]:
        found = {route: self._ctx.models.learned(label, role) for route, role in self._roles.items()}
        return {route: one for route, one in found.items() if one is not None}

    def _of(self, label: str, known: Mapping[str, Figures]) -> Chosen:
        order = list(known)

        def price(route: str) -> tuple[bool, float]:
            usd = known[route].usd
            return usd is None, 0.0 if usd is None else float(usd)

        if self._enough is None:
            route = min(order, key=lambda one: (-known[one].interval[0], *price(one), order.index(one)))
            return Chosen(route, f"the most accurate of {len(known)} on {label!r}: {known[route].words}")
        good = [one for one in order if known[one].interval[0] >= self._enough]
        if not good:
            best = max(order, key=lambda one: known[one].interval[0])
            why = f"none of {len(known)} is shown to reach {self._enough:g} on {label!r}; the best is {best}"
            return Chosen(None, f"{why}: {known[best].words}")
        route = min(good, key=lambda one: (*price(one), -known[one].interval[0], order.index(one)))
        why = f"the cheapest of {len(good)} that reach {self._enough:g} on {label!r}"
        return Chosen(route, f"{why}: {known[route].words}")

    def _advice(self, label: str | None, missing: list[str], known: Mapping[str, Figures]) -> str:
        models = [self._ctx.models.info(role).id for role in dict.fromkeys(missing)]
        asked = " ".join(f"-m {model}" for model in models)
        if label is None:
            return (
                "the text has no label, so learned figures decide no route: label it by `rules` or `examples`; "
                "`fusion models learned` lists the labels"
            )
        then = "the others decide" if known else "the default route is taken"
        return (
            f"no learned figures of {label!r} for {', '.join(models)}: {then}; "
            f"`fusion bench ITEMS {asked}` measures them, with a task set of this name or `label`"
        )
