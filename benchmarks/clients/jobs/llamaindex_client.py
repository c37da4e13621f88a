"""LlamaIndex OpenAILike: complete, chat, stream."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(model="fusion/chat", api_base=os.environ["FUSION_URL"] + "/v1", api_key="none", is_chat_model=True)
assert llm.complete("Say hello.").text == "Hello from Fusion."
print("complete")
assert llm.chat([ChatMessage(role="user", content="Say hello.")]).message.content == "Hello from Fusion."
print("chat")
assert "".join(part.delta or "" for part in llm.stream_complete("Say hello.")) == "Hello from Fusion."
print("stream")
