"""pydantic-ai: text, stream, typed output, tools."""

import asyncio
import os

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    city: str


model = OpenAIChatModel(
    "fusion/chat", provider=OpenAIProvider(base_url=os.environ["FUSION_URL"] + "/v1", api_key="none")
)
assert Agent(model).run_sync("Say hello.").output == "Hello from Fusion."
print("chat")


async def streamed() -> str:
    async with Agent(model).run_stream("Say hello.") as result:
        return await result.get_output()


assert asyncio.run(streamed()) == "Hello from Fusion."
print("stream")
assert Agent(model, output_type=City).run_sync("Where?").output == City(city="Oslo")
print("typed")
agent = Agent(model)


@agent.tool_plain
def weather(city: str) -> str:
    """Look the weather up."""
    return f"5 degrees in {city}"


assert agent.run_sync('call weather {"city": "Oslo"}').output == "The tool said: 5 degrees in Oslo"
print("tools")
