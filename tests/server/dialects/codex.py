"""A request as Codex sends it: long instructions, tools of all its types, and what it keeps of a session."""

from typing import Any

_TEXT = {"type": "string"}


def _function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "name": name,
        "description": f"Runs {name}.",
        "strict": False,
        "parameters": parameters,
    }


def request(model: str, text: str) -> dict[str, Any]:
    """The body of a turn, of about 43 kB."""
    shell = _function("shell_command", command=_TEXT, workdir=_TEXT, timeout_ms={"type": "number"})
    agents = [_function(f"agent_{number}", task=_TEXT, details=_TEXT) for number in range(20)]
    docs = [_function("search", query=_TEXT), {**_function("read", page=_TEXT), "defer_loading": True}]
    return {
        "model": model,
        "instructions": "You are a coding agent in a terminal. Work until the task is done.\n" * 530,
        "input": [
            _message("developer", "<permissions>The sandbox is read-only.</permissions>"),
            _message("user", "<environment_context><cwd>/src</cwd></environment_context>"),
            _message("user", text),
        ],
        "tools": [
            shell,
            _function("update_plan", explanation=_TEXT, plan={"type": "array", "items": _TEXT}),
            {"type": "namespace", "name": "agents", "description": "Other agents.", "tools": agents},
            {"type": "namespace", "name": "mcp__docs", "description": "Docs of the team.", "tools": docs},
            {"type": "web_search", "external_web_access": False},
            {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark"}},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
        "text": {"verbosity": "low"},
        "client_metadata": {"x-codex-installation-id": "1"},
    }


def _message(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}
