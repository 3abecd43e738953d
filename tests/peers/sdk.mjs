// OpenAI's and Anthropic's SDKs against the gateway, over upstreams of all three dialects.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import assert from "node:assert/strict";

const { GATEWAY, KEY } = process.env;
const TEXT = "Hello from the upstream.";
const SCHEMA = { type: "object", properties: { a: { type: "number" }, b: { type: "number" } }, required: ["a", "b"] };

async function withOpenAI(provider) {
  const client = new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: KEY, maxRetries: 0 });
  const model = `${provider}/ok`;
  const messages = [{ role: "user", content: "hi" }];
  const whole = await client.chat.completions.create({ model, messages });
  assert.equal(whole.choices[0].message.content, TEXT, provider);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.equal(text, TEXT, provider);
  const tools = [{ type: "function", function: { name: "add", parameters: SCHEMA } }];
  const called = await client.chat.completions.create({ model, messages, tools });
  const call = called.choices[0].message.tool_calls[0];
  assert.deepEqual(JSON.parse(call.function.arguments), { a: 2, b: 40 }, provider);
  const turn = [...messages, called.choices[0].message, { role: "tool", tool_call_id: call.id, content: "42" }];
  const after = await client.chat.completions.create({ model, messages: turn, tools });
  assert.equal(after.choices[0].message.content, TEXT, provider);
  const response = await client.responses.create({ model, input: "hi" });
  assert.equal(response.output_text, TEXT, provider);
  let last;
  for await (const event of await client.responses.create({ model, input: "hi", stream: true })) last = event;
  assert.equal(last.type, "response.completed", provider);
  if (provider !== "ant") {
    const vectors = await client.embeddings.create({ model, input: "hi" });
    assert.deepEqual(Array.from(vectors.data[0].embedding), [0.25, -0.5], provider);
  }
}

async function withAnthropic(provider) {
  const client = new Anthropic({ baseURL: `${GATEWAY}/anthropic`, apiKey: KEY, maxRetries: 0 });
  const model = `${provider}/ok`;
  const messages = [{ role: "user", content: "hi" }];
  const whole = await client.messages.create({ model, max_tokens: 64, messages });
  assert.equal(whole.content[0].text, TEXT, provider);
  const streamed = await client.messages.stream({ model, max_tokens: 64, messages }).finalMessage();
  assert.equal(streamed.content[0].text, TEXT, provider);
  const tools = [{ name: "add", input_schema: SCHEMA }];
  const called = await client.messages.create({ model, max_tokens: 64, messages, tools });
  const call = called.content.find((it) => it.type === "tool_use");
  assert.deepEqual(call.input, { a: 2, b: 40 }, provider);
  const result = { type: "tool_result", tool_use_id: call.id, content: "42" };
  const turn = [...messages, { role: "assistant", content: called.content }, { role: "user", content: [result] }];
  const after = await client.messages.create({ model, max_tokens: 64, messages: turn, tools });
  assert.equal(after.content[0].text, TEXT, provider);
}

for (const provider of ["up", "ant", "gem"]) {
  await withOpenAI(provider);
  await withAnthropic(provider);
}
console.log("ALL HELD");
