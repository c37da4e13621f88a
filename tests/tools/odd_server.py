"""A server of tools over standard input and output, without a library: it starts quickly, and misbehaves when asked."""

import json
import os
import sys
import time
from typing import Any

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}
LIES: dict[str, Any] = {
    "a_list": {"type": "object", "allOf": [{"type": ["object", 3]}]},
    "no_schema": {"type": "object", "properties": {"text": {"type": 7}}},
    "remote": {"type": "object", "properties": {"text": {"$ref": "https://example.org/schema.json"}}},
    "huge": {"type": "object", "description": "x" * 50_000},
}
TOOLS = (
    "echo",
    "die",
    "hang",
    "stuck",
    "huge_answer",
    "noise",
    "secrets",
    "odd_content",
    "no_result",
    "fault",
    "pid",
)


def answer(request: dict[str, Any], result: Any = None, error: Any = None) -> None:
    body = {"error": error} if error is not None else {"result": result}
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **body}), flush=True)


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **more}


def call(request: dict[str, Any], name: str, arguments: dict[str, Any]) -> None:
    match name:
        case "echo":
            answer(request, text(arguments.get("text", ""), structuredContent={"said": arguments.get("text", "")}))
        case "die":
            print("out of memory", file=sys.stderr, flush=True)
            os._exit(7)
        case "hang":
            return  # other calls are still answered
        case "stuck":
            time.sleep(600)
        case "huge_answer":
            answer(request, text("x" * int(arguments["text"])))
        case "noise":
            print("this is no message", flush=True)
            print(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": 7}), flush=True)
            answer(request, text("after the noise"))
        case "secrets":
            answer(request, text(json.dumps(dict(os.environ)), structuredContent=dict(os.environ)))
        case "odd_content":
            picture = {"type": "image", "data": "QUJD" * 100, "mimeType": "image/png"}
            file = {"type": "resource", "resource": {"uri": "file:///a.txt", "text": "of a file"}}
            answer(request, {"content": [{"type": "text", "text": "one"}, picture, file]})
        case "no_result":
            answer(request, {"content": "no list"})
        case "fault":
            answer(request, error={"code": -32603, "message": "the disk is full"})
        case "pid":
            answer(request, text(str(os.getpid())))
        case _:
            answer(request, text(f"no tool {name}", isError=True))


def main() -> None:
    if "--refuse" in sys.argv:
        sys.exit("needs a licence")
    if "--silent" in sys.argv:
        time.sleep(600)
    tools = [{"name": name, "description": f"The tool {name}.", "inputSchema": SCHEMA} for name in TOOLS]
    if "--lies" in sys.argv:
        tools.append({"name": "no_object", "inputSchema": {"type": "string"}})
    tools += [{"name": name, "inputSchema": schema} for name, schema in LIES.items()]
    for line in sys.stdin:
        request = json.loads(line)
        match request.get("method"):
            case "initialize":
                info = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}
                answer(request, {**info, "serverInfo": {"name": "odd", "version": "1"}})
            case "tools/list":
                answer(request, {"tools": tools})
            case "tools/call":
                call(request, request["params"]["name"], request["params"].get("arguments", {}))
            case _ if "id" in request:
                answer(request, error={"code": -32601, "message": "Method not found"})


main()
