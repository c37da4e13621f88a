"""anthropic: messages, stream, tools, count of tokens."""

import os

from anthropic import Anthropic

MODEL = "fusion/chat"
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}

client = Anthropic(base_url=os.environ["FUSION_URL"], api_key="none")
asked = [{"role": "user", "content": "Say hello."}]
known = {"model": MODEL, "max_tokens": 200}
assert [model.id for model in client.models.list()] == ["anthropic/fusion/chat"]

assert client.messages.create(messages=asked, **known).content[0].text == "Hello from Fusion."
print("messages")

with client.messages.stream(messages=asked, **known) as stream:
    assert "".join(stream.text_stream) == "Hello from Fusion."
    assert stream.get_final_message().usage.output_tokens > 0
print("stream")

turns = [{"role": "user", "content": 'call weather {"city": "Oslo"}'}]
called = client.messages.create(messages=turns, tools=[TOOL], **known)
use = called.content[-1]
assert (called.stop_reason, use.input) == ("tool_use", {"city": "Oslo"})
turns += [
    {"role": "assistant", "content": called.content},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "5 degrees"}]},
]
told = client.messages.create(messages=turns, tools=[TOOL], **known)
assert told.content[0].text == "The tool said: 5 degrees"
print("tools")

assert client.messages.count_tokens(model=MODEL, messages=asked).input_tokens > 0
print("count")
