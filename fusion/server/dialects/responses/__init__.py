"""Responses: OpenAI's Responses API over pipelines.

https://platform.openai.com/docs/api-reference/responses
"""
