"""openai: chat, stream, tools, parse, responses."""

import os

from openai import OpenAI
from pydantic import BaseModel

MODEL = "fusion/chat"
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


class City(BaseModel):
    city: str


client = OpenAI(base_url=os.environ["FUSION_URL"] + "/v1", api_key="none")
assert MODEL in [model.id for model in client.models.list()]
assert client.models.retrieve(MODEL).id == MODEL

asked = [{"role": "user", "content": "Say hello."}]
whole = client.chat.completions.create(model=MODEL, messages=asked)
assert whole.choices[0].message.content == "Hello from Fusion."
print("chat")

parts = list(
    client.chat.completions.create(model=MODEL, messages=asked, stream=True, stream_options={"include_usage": True})
)
assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "Hello from Fusion."
assert parts[-1].usage.total_tokens > 0
print("stream")

parsed = client.chat.completions.parse(model=MODEL, messages=asked, response_format=City)
assert parsed.choices[0].message.parsed == City(city="Oslo")
print("parse")

turns = [{"role": "user", "content": 'call weather {"city": "Oslo"}'}]
tools = [{"type": "function", "function": TOOL}]
called = client.chat.completions.create(model=MODEL, messages=turns, tools=tools).choices[0].message
assert called.tool_calls[0].function.arguments == '{"city": "Oslo"}'
turns += [called, {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "5 degrees"}]
told = client.chat.completions.create(model=MODEL, messages=turns, tools=tools)
assert told.choices[0].message.content == "The tool said: 5 degrees"
print("tools")

response = client.responses.create(model=MODEL, input="Say hello.")
assert response.output_text == "Hello from Fusion."
again = client.responses.create(model=MODEL, input="Say hello.", previous_response_id=response.id)
assert again.output_text == "Hello from Fusion."
with client.responses.stream(model=MODEL, input="Say hello.") as stream:
    assert stream.get_final_response().output_text == "Hello from Fusion."
assert client.responses.parse(model=MODEL, input="Say hello.", text_format=City).output_parsed == City(city="Oslo")
print("responses")
