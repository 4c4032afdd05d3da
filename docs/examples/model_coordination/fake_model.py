"""A server that stands for models, and notes whether two jobs were ever on one at once: `python fake_model.py PORT`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FakeModels:
    """POST /run {"job_id", "models", "seconds"} holds the models for so long. A caller that goes away ends its run."""

    def __init__(self) -> None:
        self.running: dict[str, list[str]] = {}
        """The ids of the jobs that are on a model now."""
        self.met: list[str] = []
        """Each time that a job came to a model that another had."""
        self.runs: Counter[str] = Counter()
        """How often a job was run."""

    @asynccontextmanager
    async def served(self, port: int = 0) -> AsyncIterator[str]:
        """Its URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0])
            asked = json.loads(await reader.readexactly(length))
            await self._run(asked["job_id"], asked["models"], asked["seconds"], reader)
            answer = json.dumps({"job_id": asked["job_id"], "models": asked["models"]})
            writer.write(f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{answer}".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # whoever asked is gone
        finally:
            writer.close()

    async def _run(self, job: str, models: list[str], seconds: float, reader: asyncio.StreamReader) -> None:
        self.runs[job] += 1
        for model in models:
            others = self.running.setdefault(model, [])
            self.met += [f"{job} came to {model}, where {other} was" for other in others]
            others.append(job)
        try:
            async with asyncio.timeout(seconds or 0.001):
                await reader.read()  # returns when the caller goes away
            raise ConnectionError
        except TimeoutError:
            pass
        finally:
            for model in models:
                self.running[model].remove(job)


async def main(port: int) -> None:
    async with FakeModels().served(port) as url:
        print(f"models are at {url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 0))
