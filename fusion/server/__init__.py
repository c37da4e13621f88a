"""Server: the APIs of OpenAI and Anthropic over pipelines, and the page of runs."""
