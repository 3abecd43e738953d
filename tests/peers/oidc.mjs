// An MCP server behind a certified issuer. Usage: oidc.mjs ISSUER_PORT SERVER_PORT. Access tokens live three seconds.
import { Provider } from "oidc-provider";
import { createServer } from "node:http";

const [issuerPort, serverPort] = process.argv.slice(2).map(Number);
const issuer = `http://127.0.0.1:${issuerPort}`;
const resource = `http://127.0.0.1:${serverPort}/mcp`;
const TTL = 3;
const grants = { authorization_code: 0, refresh_token: 0, client_credentials: 0 };

const provider = new Provider(issuer, {
  clients: [{ client_id: "me", client_secret: "pw", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] }],
  features: {
    devInteractions: { enabled: true },
    registration: { enabled: true },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: "tools", audience: resource, accessTokenFormat: "opaque", accessTokenTTL: TTL }),
    },
  },
  scopes: ["openid", "offline_access", "tools"],
  pkce: { required: () => true },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  ttl: { AccessToken: TTL, ClientCredentials: TTL },
  rotateRefreshToken: true,
});
provider.on("grant.success", (context) => (grants[context.oidc.params.grant_type] += 1));
provider.listen(issuerPort, "127.0.0.1");

const answers = {
  initialize: (params) => ({ protocolVersion: params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "protected", version: "1" } }),
  ping: () => ({}),
  "tools/list": () => ({ tools: [{ name: "who", inputSchema: { type: "object" } }] }),
  "tools/call": () => ({ content: [{ type: "text", text: "you, by a token that holds" }] }),
};

createServer(async (request, response) => {
  const json = (status, body, headers = {}) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(body === undefined ? undefined : JSON.stringify(body));
  };
  if (request.url === "/grants") return json(200, grants);
  if (request.url.startsWith("/.well-known/oauth-protected-resource")) {
    return json(200, { resource, authorization_servers: [issuer], scopes_supported: ["tools"] });
  }
  const token = (request.headers.authorization ?? "").replace("Bearer ", "");
  const found = token && ((await provider.AccessToken.find(token)) ?? (await provider.ClientCredentials.find(token)));
  if (!found || found.isExpired || found.aud !== resource) {
    const metadata = `http://127.0.0.1:${serverPort}/.well-known/oauth-protected-resource/mcp`;
    return json(401, { error: "invalid_token" }, { "www-authenticate": `Bearer resource_metadata="${metadata}"` });
  }
  if (request.method !== "POST") return json(405, {});
  let text = "";
  for await (const piece of request) text += piece;
  const message = JSON.parse(text);
  if (message.id === undefined) return json(202);
  const answer = answers[message.method];
  if (!answer) return json(200, { jsonrpc: "2.0", id: message.id, error: { code: -32601, message: "no such method" } });
  return json(200, { jsonrpc: "2.0", id: message.id, result: answer(message.params ?? {}) });
}).listen(serverPort, "127.0.0.1", () => console.log("ready"));
