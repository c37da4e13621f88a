"""litellm: completion, stream, tools, responses, and its route to Anthropic's API."""

import os

import litellm

litellm.suppress_debug_info = True  # its notices go to standard output
url = os.environ["FUSION_URL"]
asked = [{"role": "user", "content": "Say hello."}]
known = {"api_base": url + "/v1", "api_key": "none", "model": "openai/fusion/chat"}
assert litellm.completion(messages=asked, **known).choices[0].message.content == "Hello from Fusion."
print("chat")
parts = litellm.completion(messages=asked, stream=True, **known)
assert "".join(part.choices[0].delta.content or "" for part in parts) == "Hello from Fusion."
print("stream")
tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
turns = [{"role": "user", "content": 'call weather {"city": "Oslo"}'}]
called = litellm.completion(messages=turns, tools=[tool], **known).choices[0].message
turns += [called, {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "5 degrees"}]
told = litellm.completion(messages=turns, tools=[tool], **known)
assert told.choices[0].message.content == "The tool said: 5 degrees"
print("tools")
said = litellm.responses(input="Say hello.", **known)
assert said.output[0].content[0].text == "Hello from Fusion."
print("responses")
known = {"api_base": url, "api_key": "none", "model": "anthropic/fusion/chat"}
assert litellm.completion(messages=asked, **known).choices[0].message.content == "Hello from Fusion."
print("messages")
