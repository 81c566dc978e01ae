"""The API server on 127.0.0.1 of this machine: so any kubectl, Helm or library reaches it.

Owns one listening socket in the machine's own network namespace.  A socket stays in the namespace
in which it was made, so the process moves into the cluster's after that, and bytes are passed
between the two unread.  A program of the unit `door`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import sys
from typing import Final

CLONE_NEWNET: Final = 0x40000000
CHUNK_BYTES: Final = 1 << 16


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def serve(listener: socket.socket, address: str, port: int) -> None:
    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # either side may go at any time
            to_reader, to_writer = await asyncio.open_connection(address, port)
            try:
                await asyncio.gather(_pass_on(reader, to_writer), _pass_on(to_reader, writer))
            finally:
                to_writer.close()
        writer.close()

    server = await asyncio.start_server(accepted, sock=listener)
    await server.serve_forever()


def main(netns: str, listen_port: str, address: str, port: str) -> None:
    listener = socket.create_server(("127.0.0.1", int(listen_port)))
    with open(netns) as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {netns}")
    asyncio.run(serve(listener, address, int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
