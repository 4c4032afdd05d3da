"""A server that stands for Ollama with one place for a model: `python fake_model.py PORT [LOAD [WORK]]`, in seconds."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class FakeModel:
    """POST /api/generate loads a model, /api/chat works, /api/embeddings answers at once.

    Work takes as long as the request's "seconds" says, if it says so. A model that works without being loaded is noted.
    """

    def __init__(self, load: float = 0.0, work: float = 0.0) -> None:
        self.load = load
        self.work = work
        self.loads: list[str] = []
        """The models that were loaded, in order."""
        self.chats: list[dict[str, Any]] = []
        """The requests that began to work, in order."""
        self.unloaded: list[str] = []
        """Models that were to work while another was loaded."""

    @asynccontextmanager
    async def served(self, port: int = 0) -> AsyncIterator[str]:
        """Its URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
            request = json.loads(await reader.readexactly(length))
            status, answer = await self.answer(head.split(" ")[1], request)
            body = json.dumps(answer).encode()
            lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", f"Content-Length: {len(body)}"]
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # whoever asked is gone
        finally:
            writer.close()

    async def answer(self, path: str, request: dict[str, Any]) -> tuple[int, Any]:
        model = request.get("model")
        if path == "/api/generate" and model:
            await asyncio.sleep(self.load)
            self.loads.append(model)
            return 200, {"model": model, "done": True, "done_reason": "load"}
        if path == "/api/chat" and model:
            self.chats.append(request)
            if self.loads[-1:] != [model]:
                self.unloaded.append(model)
            await asyncio.sleep(request.get("seconds", self.work))
            said = (request.get("messages") or [{}])[-1].get("content", "")
            return 200, {"model": model, "message": {"role": "assistant", "content": f"You said: {said}"}, "done": True}
        if path == "/api/embeddings" and model:
            return 200, {"embedding": [0.25, 0.5]}
        return 404, {"error": f"no model, or no such path: {path}"}


async def main(port: int, load: float = 0.0, work: float = 0.0) -> None:
    async with FakeModel(load, work).served(port) as url:
        print(f"a model is at {url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *map(float, sys.argv[2:])))
