# Claude Code: a text answer, a tool that it runs, and a tool of `fusion mcp`.
set -euo pipefail
export ANTHROPIC_BASE_URL=$FUSION_URL ANTHROPIC_API_KEY=none ANTHROPIC_MODEL=fusion/chat
export ANTHROPIC_DEFAULT_HAIKU_MODEL=fusion/chat
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1
"$BIN/claude" -p "Say hello." < /dev/null | grep "Hello from Fusion." > /dev/null
echo answer
echo "five degrees" > weather.txt
"$BIN/claude" -p "call Read {\"file_path\": \"$PWD/weather.txt\"}" --allowedTools Read < /dev/null \
  | grep "five degrees" > /dev/null
echo tools
echo "{\"mcpServers\": {\"fusion\": {\"command\": \"$FUSION_MCP\", \"alwaysLoad\": true}}}" > mcp.json
MCP_CONNECT_TIMEOUT_MS=60000 "$BIN/claude" -p 'call mcp__fusion__chat {"prompt": "Say hello."}' \
  --mcp-config mcp.json --allowedTools mcp__fusion__chat < /dev/null \
  | grep "The tool said: .*Hello from Fusion." > /dev/null
echo mcp
