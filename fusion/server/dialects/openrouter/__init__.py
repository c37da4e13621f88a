"""OpenRouter's Fusion: its plug-in and server tool over the shipped pipeline of panel, judge and writer.

https://openrouter.ai/docs/guides/features/plugins/fusion
"""
