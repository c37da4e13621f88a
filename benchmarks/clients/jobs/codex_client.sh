# Codex: a text answer over responses, a tool that it runs, and a tool of `fusion mcp`.
set -euo pipefail
export CODEX_HOME=$PWD/codex FUSION_KEY=none
mkdir -p "$CODEX_HOME"
cat > "$CODEX_HOME/config.toml" <<TOML
model = "fusion/chat"
model_provider = "fusion"

[model_providers.fusion]
name = "Fusion"
base_url = "$FUSION_URL/v1"
env_key = "FUSION_KEY"
wire_api = "responses"

[mcp_servers.fusion]
command = "$FUSION_MCP"
startup_timeout_sec = 60
required = true

[analytics]
enabled = false
TOML
"$BIN/codex" exec --skip-git-repo-check "Say hello." < /dev/null | grep "Hello from Fusion." > /dev/null
echo answer
echo "five degrees" > weather.txt
"$BIN/codex" exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
  'call exec_command {"cmd": "cat weather.txt"}' < /dev/null | grep "five degrees" > /dev/null
echo tools
"$BIN/codex" exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
  'call mcp__fusion__chat {"prompt": "Say hello."}' < /dev/null | tr '\n' ' ' \
  | grep "The tool said: .*Hello from Fusion." > /dev/null
echo mcp
