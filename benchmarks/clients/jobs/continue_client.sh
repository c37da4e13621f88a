# Continue CLI: a text answer over chat completions, and a tool that it runs.
set -euo pipefail
cat > config.yaml <<YAML
name: fusion
version: 1.0.0
schema: v1
models:
  - name: fusion
    provider: openai
    model: fusion/chat
    apiBase: $FUSION_URL/v1
    apiKey: none
    roles: [chat]
YAML
export CONTINUE_TELEMETRY_ENABLED=0 CONTINUE_CLI_ENABLE_TELEMETRY=0
"$BIN/cn" --config config.yaml -p "Say hello." < /dev/null | grep "Hello from Fusion." > /dev/null
echo answer
echo "five degrees" > weather.txt
"$BIN/cn" --config config.yaml --readonly -p "call Read {\"filepath\": \"$PWD/weather.txt\"}" < /dev/null \
  | grep "five degrees" > /dev/null
echo tools
