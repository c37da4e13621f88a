# opencode: a text answer over chat completions, a tool that it runs, and a tool of `fusion mcp`.
set -euo pipefail
cat > opencode.json <<JSON
{
  "\$schema": "https://opencode.ai/config.json",
  "autoupdate": false,
  "share": "disabled",
  "model": "fusion/fusion/chat",
  "small_model": "fusion/fusion/chat",
  "mcp": {"fusion": {"type": "local", "command": ["$FUSION_MCP"], "enabled": true}},
  "provider": {
    "fusion": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "Fusion",
      "options": {"baseURL": "$FUSION_URL/v1", "apiKey": "none"},
      "models": {"fusion/chat": {"name": "Fusion"}}
    }
  }
}
JSON
"$BIN/opencode" run "Say hello." < /dev/null 2>&1 | grep "Hello from Fusion." > /dev/null
echo answer
echo "five degrees" > weather.txt
"$BIN/opencode" run "call read {\"filePath\": \"$PWD/weather.txt\"}" < /dev/null 2>&1 | grep "five degrees" > /dev/null
echo tools
"$BIN/opencode" run 'call fusion_chat {"prompt": "Say hello."}' < /dev/null 2>&1 \
  | grep "The tool said: .*Hello from Fusion." > /dev/null
echo mcp
