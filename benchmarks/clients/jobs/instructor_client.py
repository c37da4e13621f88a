"""instructor: a class from tools, from JSON, from a schema, and from responses."""

import os

import instructor
from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    city: str


for mode in (
    instructor.Mode.TOOLS,
    instructor.Mode.JSON,
    instructor.Mode.JSON_SCHEMA,
    instructor.Mode.RESPONSES_TOOLS,
):
    client = instructor.from_openai(OpenAI(base_url=os.environ["FUSION_URL"] + "/v1", api_key="none"), mode=mode)
    asked = [{"role": "user", "content": "Where?"}]
    found = client.chat.completions.create(model="fusion/chat", response_model=City, messages=asked)
    assert found.city == "Oslo", (mode, found)
    print(mode.name.lower())
