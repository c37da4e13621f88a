"""Kept panel: the answers of a panel and the analysis of its judge, as the store has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fusion.core.events import EventBase, ItemFinished, event_adapter
from fusion.core.types import Item
from fusion.models.structured import values_in
from fusion.server.dialects.openrouter.panel import JUDGE, PANEL, Plan
from fusion.stages.verification.labels import labels, renamed
from fusion.store.base import Store
from fusion.store.rows import Call

Json = dict[str, Any]
_ENDS: Final = (("item_finished", PANEL), ("stage_finished", JUDGE))
_FIELDS: Final = ("consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots")


@dataclass(frozen=True, slots=True)
class KeptPanel:
    """A panel so far. `answers` are model and text by the place in the panel.

    `events` are the ends of its members and its judge, in order. `gave_json` is True for a judge that wrote JSON.
    """

    answers: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    analysis: Json | None = None
    gave_json: bool = False
    events: Sequence[EventBase] = ()

    @classmethod
    def none(cls) -> "KeptPanel":
        """Return a panel that has not begun."""
        return cls()

    @classmethod
    def read(cls, store: Store, run_id: str, plan: Plan) -> "KeptPanel":
        """Return the panel of a run."""
        calls = [call for call in store.calls(run_id, texts=True) if call.key.stage in (PANEL, JUDGE)]
        members, judged = ([call for call in calls if call.key.stage == stage] for stage in (PANEL, JUDGE))
        answers = {
            place: (call.reply.by or call.reply.asked, call.reply.text)
            for call in members
            if (place := call.key.item) is not None and call.reply is not None and call.state == "finished"
        }
        return cls(
            answers=answers,
            analysis=_analysis(judged, answers, plan),
            gave_json=any(values_in(call.reply.text, dict) for call in judged if call.reply is not None),
            events=_ends(store, run_id, [call for call in members if call.state == "finished"]),
        )


def _ends(store: Store, run_id: str, answered: Sequence[Call]) -> list[EventBase]:
    """Return the ends of the members, and of the judge, in order of time."""
    ended: list[EventBase] = [
        ItemFinished(run_id=run_id, stage=PANEL, item=call.key.item, at=datetime.fromtimestamp(call.ended, UTC))
        for call in answered
    ]
    known = [one for one in store.events(run_id) if (one["type"], one.get("stage")) in _ENDS]
    ended += map(event_adapter().validate_python, known)
    return sorted(ended, key=lambda event: event.at)


def _analysis(judged: Sequence[Call], answers: Mapping[int, tuple[str, str]], plan: Plan) -> Json | None:
    """Return the last analysis, with the names of models in place of labels; None if there is none."""
    replies = [call.reply.text for call in judged if call.state == "finished" and call.reply is not None]
    found = values_in(replies[-1], dict) if replies else []
    given = next((one for one in found if set(_FIELDS) <= one.keys()), None)
    if given is None:
        return None
    names = labels(1 + max(answers, default=0))
    items = [
        Item(index=place, source={"label": names[place]}, by=plan.name(by)) for place, (by, _) in answers.items()
    ]
    analysis: Json = renamed({name: given[name] for name in _FIELDS}, items)
    return analysis
