"""openai-agents: an agent over responses and over chat, with a tool."""

import os

from agents import (
    Agent,
    AsyncOpenAI,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=os.environ["FUSION_URL"] + "/v1", api_key="none")


@function_tool
def weather(city: str) -> str:
    """Look the weather up."""
    return f"5 degrees in {city}"


for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
    model = kind(model="fusion/chat", openai_client=client)
    agent = Agent(name="a", instructions="Be brief.", model=model, tools=[weather])
    assert Runner.run_sync(agent, "Say hello.").final_output == "Hello from Fusion."
    said = Runner.run_sync(agent, 'call weather {"city": "Oslo"}').final_output
    assert said == "The tool said: 5 degrees in Oslo", said
    print(kind.__name__.removeprefix("OpenAI").removesuffix("Model").lower())
