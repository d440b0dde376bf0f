"""A TCP proxy that puts a server on this machine at a distance; run as a program.

Arguments: the server's port and the round trip to add, in seconds. Prints its own port and serves until standard
input ends. Each direction waits for half a round trip; a new connection costs one round trip, as its handshake would.
"""

from __future__ import annotations

import asyncio
import selectors
import sys


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what arrives, in order, each piece after its delay in seconds."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(65536):
        loop.call_later(delay, writer.write, data)
    loop.call_later(delay, writer.close)


async def serve(port: int, round_trip: float) -> None:
    """Serve until standard input ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(round_trip)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, there_writer, round_trip / 2), carry(there_reader, writer, round_trip / 2))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def exact_loop() -> asyncio.AbstractEventLoop:
    """Make a loop on ``select``, since ``epoll`` rounds each delay up to a whole millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=exact_loop) as runner:
        runner.run(serve(int(sys.argv[1]), float(sys.argv[2])))
