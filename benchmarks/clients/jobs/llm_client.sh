# llm: models of extra-openai-models.yaml; prompt, stream, schema, tools.
set -euo pipefail
export LLM_USER_PATH=$PWD/llm
mkdir -p "$LLM_USER_PATH"
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<YAML
- model_id: fusion
  model_name: fusion/chat
  api_base: $FUSION_URL/v1
  api_key_name: fusion
  supports_schema: true
  supports_tools: true
YAML
"$BIN/llm" keys set fusion --value none
[ "$("$BIN/llm" -m fusion --no-stream "Say hello.")" = "Hello from Fusion." ]
echo prompt
[ "$("$BIN/llm" -m fusion "Say hello.")" = "Hello from Fusion." ]
echo stream
[ "$("$BIN/llm" -m fusion --schema '{"type": "object", "properties": {"city": {"type": "string"}}}' "Where?")" = '{"city": "Oslo"}' ]
echo schema
"$BIN/llm" -m fusion --functions 'def weather(city: str) -> str: return "5 degrees in " + city' \
  'call weather {"city": "Oslo"}' | grep "5 degrees in Oslo" > /dev/null
echo tools
