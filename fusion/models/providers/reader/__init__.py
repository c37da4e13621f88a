"""Reader of replies in OpenAI's format: the same bytes mean the same, whole and streamed, by whatever client."""
