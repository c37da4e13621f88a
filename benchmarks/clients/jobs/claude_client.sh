# Claude Code: a text answer, and a tool that it runs.
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
