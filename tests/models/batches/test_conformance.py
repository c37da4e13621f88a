"""What every batch API does, whichever provider's: rows in, results out, and each way in which a batch can end."""

import pytest

from tests.models.batches.conftest import Open, entries, read
from tests.models.batches.double import Double

pytestmark = pytest.mark.anyio

MODELS = ("openai/gpt-5.6", "groq/llama-3.3-70b-versatile")
NAMED = ("openai/gpt-5.6",)

every = pytest.mark.parametrize("model_id", MODELS)


@every
async def test_every_row_comes_back_once_in_any_order(double: Double, opened: Open, model_id: str) -> None:
    double.set(shuffle=True)
    door, rows = opened(model_id), entries(40)
    batch_id = await door.submit(rows, "one")
    state = await door.state(batch_id)
    assert (state.status, state.total, state.done, state.failed) == ("ended", 40, 40, 0)
    found = await read(door, batch_id, rows)
    assert list(found) != [row.custom_id for row in rows]
    assert {custom_id: end.reply.text for custom_id, end in found.items() if end.reply} == {
        f"c{number}": f"echo: row {number}" for number in range(40)
    }
    reply = found["c7"].reply
    assert reply is not None
    assert (reply.asked, reply.usage.input, reply.usage.output, reply.usage.source) == (model_id, 20, 10, "measured")
    assert (reply.latency, reply.first_token) == (0.0, None)
    assert max(double.counts.bodies.values()) == 1
