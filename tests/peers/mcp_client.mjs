// The official TypeScript client: lists and calls tools, and prints what it saw as JSON.
//
// mcp_client.mjs URL KEY [TOOL ARGUMENTS]
import { Client, StreamableHTTPClientTransport, SSEClientTransport } from '@modelcontextprotocol/client';

const [url, key, tool, args = '{}'] = process.argv.slice(2);
const requestInit = { headers: { Authorization: `Bearer ${key}` } };
const Transport = url.endsWith('/sse') ? SSEClientTransport : StreamableHTTPClientTransport;
const client = new Client({ name: 'peer', version: '1' });
await client.connect(new Transport(new URL(url), { requestInit }));
const seen = { progress: [], tools: (await client.listTools()).tools.map((it) => it.name) };
if (tool) {
  const onprogress = (it) => seen.progress.push(it.progress);
  try {
    seen.result = await client.callTool({ name: tool, arguments: JSON.parse(args) }, { onprogress });
  } catch (error) {
    seen.error = String(error.message);
  }
}
await client.close();
console.log(JSON.stringify(seen));
