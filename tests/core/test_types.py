"""The values that travel through a run."""

import pytest

from fusion import Message


@pytest.mark.parametrize("deep", [False, True])
def test_a_changed_copy_of_a_message_has_its_own_size(deep: bool) -> None:
    message = Message(role="user", content="ä")
    assert message.size == 2
    assert message.model_copy(update={"content": "longer"}, deep=deep).size == 6
    assert message.model_copy(deep=deep) == message
    assert message.model_dump() == {
        "role": "user",
        "content": "ä",
        "files": (),
        "tool_calls": (),
        "tool_call_id": None,
    }
