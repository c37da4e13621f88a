# opencode: a text answer over chat completions, and a tool that it runs.
set -euo pipefail
cat > opencode.json <<JSON
{
  "\$schema": "https://opencode.ai/config.json",
  "autoupdate": false,
  "share": "disabled",
  "model": "fusion/fusion/chat",
  "small_model": "fusion/fusion/chat",
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
