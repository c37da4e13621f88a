"""langchain-openai: invoke, stream, structured output, tools, responses."""

import os

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class City(BaseModel):
    city: str


@tool
def weather(city: str) -> str:
    """Look the weather up."""
    return f"5 degrees in {city}"


known = {"base_url": os.environ["FUSION_URL"] + "/v1", "api_key": "none", "model": "fusion/chat"}
chat = ChatOpenAI(**known)
assert chat.invoke("Say hello.").content == "Hello from Fusion."
print("chat")
assert "".join(part.content for part in chat.stream("Say hello.")) == "Hello from Fusion."
print("stream")
for method in ("json_schema", "function_calling"):
    assert chat.with_structured_output(City, method=method).invoke("Say hello.") == City(city="Oslo")
print("structured")
turns = [HumanMessage('call weather {"city": "Oslo"}')]
called = chat.bind_tools([weather]).invoke(turns)
(call,) = called.tool_calls
turns += [called, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
assert chat.bind_tools([weather]).invoke(turns).content == "The tool said: 5 degrees in Oslo"
print("tools")
assert ChatOpenAI(**known, use_responses_api=True).invoke("Say hello.").text == "Hello from Fusion."
print("responses")
