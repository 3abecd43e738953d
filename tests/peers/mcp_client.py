"""The official Python client: lists and calls tools, and prints what it saw as JSON.

mcp_client.py URL KEY MODE [TOOL ARGUMENTS]
"""

import asyncio
import json
import sys

from mcp import Client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client


async def main(url, key, mode, tool=None, arguments="{}"):
    seen = {"progress": []}

    async def progress(done, total=None, message=None):
        seen["progress"].append(done)

    async with create_mcp_http_client(headers={"Authorization": "Bearer " + key}) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            seen["tools"] = [it.name for it in (await client.list_tools()).tools]
            if tool:
                try:
                    result = await client.call_tool(tool, json.loads(arguments), progress_callback=progress)
                    seen["result"] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
                except Exception as error:  # What a caller would see.
                    seen["error"] = str(error)
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
