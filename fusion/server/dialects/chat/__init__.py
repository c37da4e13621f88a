"""Chat completions: OpenAI's API that most clients speak, with OpenRouter's further fields of usage."""
