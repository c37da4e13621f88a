"""Plug-ins: Fusion as a provider of litellm, and as models of the command line tool llm."""
