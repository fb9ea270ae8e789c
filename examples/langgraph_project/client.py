"""A visit to the library through LangGraph's Python client, which knows nothing of the server but its address.

python client.py http://127.0.0.1:2024
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

VISITOR = {"name": "Ada"}


async def talk(client: LangGraphClient, thread_id: str, **asked: Any) -> None:
    """Run the assistant, and print what it says, word by word."""
    said = False
    stream = client.runs.stream(thread_id, "desk", **asked, context=VISITOR, stream_mode="messages-tuple")
    async for part in stream:
        if part.event == "error":
            raise RuntimeError(part.data["message"])
        if part.event != "messages":
            continue
        message, about = part.data
        if about["langgraph_node"] == "think" and message["content"]:
            print("" if said else "desk: ", message["content"], sep="", end="", flush=True)
            said = True
    if said:
        print()


async def say(client: LangGraphClient, thread_id: str, text: str) -> None:
    """Say something, and answer for the librarian when one is asked."""
    print("you:", text)
    await talk(client, thread_id, input={"messages": [{"role": "user", "content": text}]})
    state = await client.threads.get_state(thread_id)
    for asked in state["interrupts"]:
        print("librarian:", asked["value"]["question"], "yes")
        await talk(client, thread_id, command={"resume": "yes"})


async def main(url: str) -> None:
    """Ask for a book, borrow it, and see what is borrowed."""
    async with get_client(url=url) as client:
        thread = await client.threads.create(metadata={"visitor": "Ada"})
        await say(client, thread["thread_id"], "Where is Solaris?")
        await say(client, thread["thread_id"], "Then lend me Solaris, please.")
        state: Any = await client.threads.get_state(thread["thread_id"])
        print("messages:", " ".join(message["type"] for message in state["values"]["messages"]))
        for language in ("en", "de"):
            config: Any = {"configurable": {"language": language}}
            loans: Any = await client.runs.wait(None, "loans", input={}, config=config, context=VISITOR)
            print("loans:", loans["said"])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["http://127.0.0.1:2024"]))
