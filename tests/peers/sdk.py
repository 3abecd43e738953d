"""OpenAI's, Anthropic's and Google's SDKs against the gateway, over upstreams of all three dialects."""
import os

import anthropic
import openai
from google import genai
from google.genai import types

GATEWAY, KEY = os.environ["GATEWAY"], os.environ["KEY"]
TEXT = "Hello from the upstream."
SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}


def same(found, wanted, what):
    assert found == wanted, f"{what}: {found!r} is not {wanted!r}"


def with_openai(provider):
    client = openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEY, max_retries=0)
    model, ask = f"{provider}/ok", [{"role": "user", "content": "hi"}]
    reply = client.chat.completions.create(model=model, messages=ask)
    same(reply.choices[0].message.content, TEXT, f"openai over {provider}")
    same((reply.usage.prompt_tokens, reply.usage.completion_tokens), (11, 7), f"openai usage over {provider}")
    pieces = [it.choices[0].delta.content or "" for it in client.chat.completions.create(model=model, messages=ask, stream=True)]
    same("".join(pieces), TEXT, f"openai stream over {provider}")
    tools = [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]
    reply = client.chat.completions.create(model=model, messages=ask, tools=tools)
    call = reply.choices[0].message.tool_calls[0]
    same((call.function.name, reply.choices[0].finish_reason), ("add", "tool_calls"), f"openai tool over {provider}")
    turn = ask + [reply.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "42"}]
    reply = client.chat.completions.create(model=model, messages=turn, tools=tools)
    same(reply.choices[0].message.content, TEXT, f"openai tool result over {provider}")
    reply = client.responses.create(model=model, input="hi")
    same(reply.output_text, TEXT, f"responses over {provider}")
    events = list(client.responses.create(model=model, input="hi", stream=True))
    same("".join(it.delta for it in events if it.type == "response.output_text.delta"), TEXT, f"responses stream over {provider}")
    same(events[-1].type, "response.completed", f"responses end over {provider}")
    if provider != "ant":
        same(client.embeddings.create(model=model, input="hi").data[0].embedding, [0.25, -0.5], f"embeddings over {provider}")
    try:
        client.chat.completions.create(model="up/status-400", messages=ask)
        raise AssertionError("no error")
    except openai.BadRequestError as error:
        assert "upstream says" in str(error), error


def with_anthropic(provider):
    client = anthropic.Anthropic(base_url=f"{GATEWAY}/anthropic", api_key=KEY, max_retries=0)
    model, ask = f"{provider}/ok", [{"role": "user", "content": "hi"}]
    reply = client.messages.create(model=model, max_tokens=64, messages=ask)
    same(reply.content[0].text, TEXT, f"anthropic over {provider}")
    same((reply.usage.input_tokens, reply.usage.output_tokens), (11, 7), f"anthropic usage over {provider}")
    with client.messages.stream(model=model, max_tokens=64, messages=ask) as stream:
        same("".join(stream.text_stream), TEXT, f"anthropic stream over {provider}")
    tools = [{"name": "add", "input_schema": SCHEMA}]
    reply = client.messages.create(model=model, max_tokens=64, messages=ask, tools=tools)
    call = next(it for it in reply.content if it.type == "tool_use")
    same((call.name, call.input, reply.stop_reason), ("add", {"a": 2, "b": 40}, "tool_use"), f"anthropic tool over {provider}")
    turn = ask + [{"role": "assistant", "content": reply.content},
                  {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "42"}]}]
    reply = client.messages.create(model=model, max_tokens=64, messages=turn, tools=tools)
    same(reply.content[0].text, TEXT, f"anthropic tool result over {provider}")
    with client.messages.stream(model=model, max_tokens=64, messages=ask, tools=tools) as stream:
        final = stream.get_final_message()
    call = next(it for it in final.content if it.type == "tool_use")
    same(call.input, {"a": 2, "b": 40}, f"anthropic streamed tool over {provider}")


def with_google(provider):
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=f"{GATEWAY}/genai"))
    model = f"{provider}/ok"
    reply = client.models.generate_content(model=model, contents="hi")
    same(reply.text, TEXT, f"google over {provider}")
    same((reply.usage_metadata.prompt_token_count, reply.usage_metadata.candidates_token_count), (11, 7), f"google usage over {provider}")
    same("".join(it.text or "" for it in client.models.generate_content_stream(model=model, contents="hi")), TEXT, f"google stream over {provider}")
    tool = types.Tool(function_declarations=[types.FunctionDeclaration(name="add", parameters_json_schema=SCHEMA)])
    config = types.GenerateContentConfig(tools=[tool], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True))
    reply = client.models.generate_content(model=model, contents="hi", config=config)
    call = reply.function_calls[0]
    same((call.name, call.args), ("add", {"a": 2, "b": 40}), f"google tool over {provider}")
    turn = [types.Content(role="user", parts=[types.Part(text="hi")]), reply.candidates[0].content,
            types.Content(role="user", parts=[types.Part.from_function_response(name="add", response={"result": 42})])]
    reply = client.models.generate_content(model=model, contents=turn, config=config)
    same(reply.text, TEXT, f"google tool result over {provider}")


for upstream in ("up", "ant", "gem"):
    with_openai(upstream)
    with_anthropic(upstream)
    with_google(upstream)
print("ALL HELD")
