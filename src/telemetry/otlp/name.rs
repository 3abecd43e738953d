//! Names of attributes and metrics. Those of the conventions are as in their main branch of September 2026; `althing.*` are ours.

pub(super) const ERROR_TYPE: &str = "error.type";
pub(super) const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
pub(super) const HTTP_METHOD: &str = "http.request.method";
pub(super) const HTTP_RESEND_COUNT: &str = "http.request.resend_count";
pub(super) const HTTP_ROUTE: &str = "http.route";
pub(super) const HTTP_STATUS: &str = "http.response.status_code";
pub(super) const MCP_METHOD: &str = "mcp.method.name";
pub(super) const MCP_PROTOCOL: &str = "mcp.protocol.version";
pub(super) const MCP_SESSION: &str = "mcp.session.id";
pub(super) const NETWORK_PROTOCOL: &str = "network.protocol.name";
pub(super) const NETWORK_TRANSPORT: &str = "network.transport";
pub(super) const OPERATION: &str = "gen_ai.operation.name";
pub(super) const PROVIDER: &str = "gen_ai.provider.name";
pub(super) const REQUEST_MODEL: &str = "gen_ai.request.model";
pub(super) const REQUEST_STREAM: &str = "gen_ai.request.stream";
pub(super) const RESPONSE_MODEL: &str = "gen_ai.response.model";
pub(super) const RPC_ID: &str = "jsonrpc.request.id";
pub(super) const RPC_STATUS: &str = "rpc.response.status_code";
pub(super) const SERVER_ADDRESS: &str = "server.address";
pub(super) const SERVER_PORT: &str = "server.port";
pub(super) const TIME_TO_FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";
pub(super) const TOKEN_TYPE: &str = "gen_ai.token.type";
pub(super) const TOOL: &str = "gen_ai.tool.name";
pub(super) const USAGE_CACHE_READ: &str = "gen_ai.usage.cache_read.input_tokens";
pub(super) const USAGE_CACHE_WRITE: &str = "gen_ai.usage.cache_creation.input_tokens";
pub(super) const USAGE_INPUT: &str = "gen_ai.usage.input_tokens";
pub(super) const USAGE_OUTPUT: &str = "gen_ai.usage.output_tokens";
pub(super) const USAGE_REASONING: &str = "gen_ai.usage.reasoning.output_tokens";

pub(super) const ATTEMPTS: &str = "althing.attempts";
pub(super) const COST: &str = "althing.cost.nano_usd";
pub(super) const CUSTOMER: &str = "althing.customer";
pub(super) const ERROR_CODE: &str = "althing.error.code";
pub(super) const ESTIMATED: &str = "althing.tokens.estimated";
pub(super) const KEY: &str = "althing.key";
pub(super) const MCP_SERVER: &str = "althing.mcp.server";
pub(super) const OUR_PROVIDER: &str = "althing.provider";
pub(super) const OVERHEAD: &str = "althing.overhead_us";
pub(super) const PARENT_RECORD: &str = "althing.parent.record.id";
pub(super) const PROVIDER_KEY: &str = "althing.provider_key";
pub(super) const RECORD: &str = "althing.record.id";
pub(super) const TEAM: &str = "althing.team";

/// `gen_ai.operation.name` of a tool call.
pub(super) const EXECUTE_TOOL: &str = "execute_tool";
/// `mcp.method.name` of a tool call.
pub(super) const TOOLS_CALL: &str = "tools/call";
/// `error.type` where a tool says itself that it failed.
pub(super) const TOOL_ERROR: &str = "tool_error";

pub(super) const CLIENT_DURATION: &str = "gen_ai.client.operation.duration";
pub(super) const CLIENT_FIRST_CHUNK: &str = "gen_ai.client.operation.time_to_first_chunk";
pub(super) const CLIENT_TOKENS: &str = "gen_ai.client.token.usage";
pub(super) const SERVER_DURATION: &str = "gen_ai.server.request.duration";
pub(super) const MCP_CLIENT_DURATION: &str = "mcp.client.operation.duration";
pub(super) const MCP_SERVER_DURATION: &str = "mcp.server.operation.duration";
