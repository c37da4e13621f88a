"""Messages: Anthropic's API over pipelines.

https://docs.claude.com/en/api/messages
"""
