"""Names of spans, attributes and metrics.

Names that begin with `gen_ai` follow the OpenTelemetry semantic conventions for generative AI, v0.1.0 (development).
All others are Fusion's own.
"""

from typing import Final

CONVENTIONS: Final = "0.1.0"
"""Version of the conventions that names with `gen_ai` follow."""

INVOKE_AGENT: Final = "invoke_agent"
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"

OPERATION: Final = "gen_ai.operation.name"
AGENT: Final = "gen_ai.agent.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
INSTRUCTIONS: Final = "gen_ai.system_instructions"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL: Final = "gen_ai.tool.name"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
ERROR: Final = "error.type"

PIPELINE: Final = "fusion.pipeline"
PROFILE: Final = "fusion.profile"
RUN: Final = "fusion.run.id"
SESSION: Final = "fusion.run.session"
PARENT: Final = "fusion.run.parent"
STATUS: Final = "fusion.status"
TAG: Final = "fusion.tag."
MAP: Final = "fusion.map.id"
STAGE: Final = "fusion.stage"
KIND: Final = "fusion.stage.kind"
ITEM: Final = "fusion.item"
STEP: Final = "fusion.step"
ROLE: Final = "fusion.role"
COST: Final = "fusion.cost.usd"
UNPRICED: Final = "fusion.cost.unknown_calls"
CALLS: Final = "fusion.calls"
TOKENS_IN: Final = "fusion.tokens.input"
TOKENS_OUT: Final = "fusion.tokens.output"
TOKENS_CACHED: Final = "fusion.tokens.cached"
TOKENS_REASONING: Final = "fusion.tokens.reasoning"
TOKENS_TYPE: Final = "fusion.tokens.type"
RETRIES: Final = "fusion.retries"
FALLBACK: Final = "fusion.fallback"
REUSED: Final = "fusion.reused"
WAITED: Final = "fusion.waited"
"""Seconds that a call waited before its reply was asked for."""

ROWS: Final = "fusion.rows."
"""Beginning of the counts of rows of a map, by their status."""

ATTEMPT: Final = "fusion.attempt"
BACKOFF: Final = "fusion.backoff"
FAILED: Final = "fusion.failed"
RIVAL: Final = "fusion.rival"
AFTER: Final = "fusion.after"
WAIT: Final = "fusion.wait"
EFFECT: Final = "fusion.tool.effect"
PROGRAM: Final = "process.executable.name"
EXIT_CODE: Final = "process.exit.code"
SANDBOX: Final = "fusion.sandbox"
DECISION: Final = "fusion.decision"
CONFIDENCE: Final = "fusion.confidence"
OUTAGE: Final = "fusion.outage"
BATCH: Final = "fusion.batch"
MESSAGE: Final = "error.message"

METRIC_RUNS: Final = "fusion.runs"
METRIC_RUN_DURATION: Final = "fusion.run.duration"
METRIC_CALLS: Final = "fusion.calls"
METRIC_CALLS_DURATION: Final = "fusion.calls.duration"
METRIC_COST: Final = "fusion.cost"
METRIC_TOKENS: Final = "fusion.tokens"

PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""Names of providers in the conventions, where they differ from the beginning of a model's id."""
