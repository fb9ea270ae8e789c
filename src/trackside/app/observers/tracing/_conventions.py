"""What spans and their attributes are called: OpenTelemetry's conventions for generative AI, at one version.

They are still in development and change between versions, so the names are written down here instead of being imported:
upgrading a package renames nothing in anybody's dashboards. A test compares them with those of the pinned version.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "1.44.0"
"""The version of the semantic conventions that these names come from."""

SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{VERSION}"

CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
INVOKE_AGENT: Final = "invoke_agent"

OPERATION_NAME: Final = "gen_ai.operation.name"
AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
TOOL_NAME: Final = "gen_ai.tool.name"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"

ERROR_TYPE: Final = "error.type"
EXCEPTION: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE: Final = "service.instance.id"
SDK_LANGUAGE: Final = "telemetry.sdk.language"
SDK_NAME: Final = "telemetry.sdk.name"
SDK_VERSION: Final = "telemetry.sdk.version"

RUN_ID: Final = "trackside.run.id"
RUN_STATUS: Final = "trackside.run.status"
RUN_ATTEMPT: Final = "trackside.run.attempt"
RUN_RETRY_OF: Final = "trackside.run.retry_of"
RUN_PARENT: Final = "trackside.run.parent_id"
RUN_TRIGGER: Final = "trackside.run.trigger"
RUN_COST: Final = "trackside.run.cost_usd"
RUN_LLM_CALLS: Final = "trackside.run.llm_calls"
RUN_TOOL_CALLS: Final = "trackside.run.tool_calls"
RUN_CALLS_OMITTED: Final = "trackside.run.calls_omitted"
CANCEL_MODE: Final = "trackside.cancel.mode"
CANCEL_REASON: Final = "trackside.cancel.reason"
INTERRUPTS: Final = "trackside.interrupts"
CALLER: Final = "trackside.caller"
CALL_BROKEN_OFF: Final = "trackside.call.broken_off"
SPAN_CUT: Final = "trackside.span.cut"
LINK: Final = "trackside.link"
HUMAN_MESSAGE: Final = "trackside.human_message"
MESSAGE_ID: Final = "trackside.message.id"
MESSAGE_CONTENT: Final = "trackside.message.content"
