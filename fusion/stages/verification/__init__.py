"""Verification of an answer: its checks, their runs in the sandbox, and a judge."""
