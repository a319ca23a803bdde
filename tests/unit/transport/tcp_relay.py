"""A plain TCP relay, as a holder behind a firewall would use one (`ssh -R`, WireGuard)."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future


class Relay:
    """Forwards 127.0.0.1:``port`` to ``target_port``. :meth:`freeze` stops forwarding without closing."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        self.port = ready.result(10)
        self.endpoint = f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """From now on every byte is swallowed and no connection is closed: a peer that is dead to the world."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(10)
        self._loop.close()

    def _stop(self) -> None:
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        asyncio.gather(*pending, return_exceptions=True).add_done_callback(lambda _: self._loop.stop())

    def _run(self, ready: Future[int]) -> None:
        async def listen() -> None:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            ready.set_result(server.sockets[0].getsockname()[1])
            await server.serve_forever()

        self._listening = self._loop.create_task(listen())
        self._loop.run_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        finally:
            writer.close()
            there_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
