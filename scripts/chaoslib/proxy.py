"""A wire that can be cut, silenced and slowed.

Run as a program: reads commands from standard input, one JSON object a line, and answers each with one
line on standard output.

    {"open": NAME, "to": [[HOST, PORT], ...]}     answers {"port": N}
    {"link": NAME, "mode": "pass" | "cut" | "silent" | "slow"}

A link connects to the first of its servers that answers. `cut` resets what there is and whatever comes.
`silent` swallows everything without a word, as a network does that has lost its way: what was open then
stays silent for ever, as its state is gone. `slow` delays every piece and narrows the wire.
"""

import asyncio
import json
import socket
import struct
import sys

SLOW_LATENCY_SECONDS = 0.15
SLOW_BYTES_PER_SECOND = 256 * 1024
CHUNK = 64 * 1024


class Link:
    def __init__(self, servers):
        self.servers = servers
        self.mode = "pass"
        self.pairs = set()

    def switch(self, mode):
        self.mode = mode
        for pair in list(self.pairs):
            if mode == "cut":
                pair.reset()
            elif mode == "silent":
                pair.silent = True

    async def accept(self, reader, writer):
        pair = Pair(self, writer)
        if self.mode == "cut":
            pair.reset()
            return
        self.pairs.add(pair)
        try:
            if self.mode == "silent":
                pair.silent = True
                await pair.swallow(reader)
                return
            server = await self._connect()
            if server is None:
                pair.reset()
                return
            if self.mode == "cut":
                server[1].transport.abort()
                pair.reset()
                return
            pair.server = server[1]
            await asyncio.gather(pair.carry(reader, server[1]), pair.carry(server[0], writer))
        finally:
            self.pairs.discard(pair)
            pair.close()

    async def _connect(self):
        for host, port in self.servers:
            try:
                return await asyncio.wait_for(asyncio.open_connection(host, port), 5)
            except (OSError, asyncio.TimeoutError):
                continue
        return None


class Pair:
    """One connection through the link."""

    def __init__(self, link, client):
        self.link = link
        self.client = client
        self.server = None
        self.silent = False

    async def carry(self, reader, writer):
        """From one side to the other, late if the link is slow."""
        waiting = asyncio.Queue(maxsize=64)
        deliver = asyncio.ensure_future(self._deliver(waiting, writer))
        try:
            while True:
                chunk = await reader.read(CHUNK)
                if not chunk:
                    break
                slow = self.link.mode == "slow"
                due = asyncio.get_running_loop().time() + (SLOW_LATENCY_SECONDS if slow else 0)
                await waiting.put((due, chunk))
                if slow:
                    await asyncio.sleep(len(chunk) / SLOW_BYTES_PER_SECOND)
        except OSError:
            pass
        await waiting.put(None)
        await deliver
        if self.silent:
            # Nobody hears that this side is gone; the other side finds out by itself.
            return
        self.close()

    async def _deliver(self, waiting, writer):
        while True:
            piece = await waiting.get()
            if piece is None:
                return
            due, chunk = piece
            early = due - asyncio.get_running_loop().time()
            if early > 0:
                await asyncio.sleep(early)
            if self.silent:
                continue
            try:
                writer.write(chunk)
                await writer.drain()
            except (OSError, RuntimeError):
                continue

    async def swallow(self, reader):
        try:
            while await reader.read(CHUNK):
                pass
        except OSError:
            pass

    def reset(self):
        """Ends both sides without a goodbye."""
        for writer in (self.client, self.server):
            if writer is None:
                continue
            handle = writer.get_extra_info("socket")
            if handle is not None:
                try:
                    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except OSError:
                    pass
            writer.transport.abort()

    def close(self):
        for writer in (self.client, self.server):
            if writer is not None:
                writer.close()


async def main():
    links = {}
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = json.loads(line)
        answer = {}
        if "open" in command:
            link = links[command["open"]] = Link(command["to"])
            server = await asyncio.start_server(link.accept, "127.0.0.1", 0, backlog=512)
            answer["port"] = server.sockets[0].getsockname()[1]
            link.listener = server
        else:
            links[command["link"]].switch(command["mode"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
