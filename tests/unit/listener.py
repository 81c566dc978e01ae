"""An HTTP server that takes what is posted, for tests of what posts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Listener:
    """A sink: what came, in order, and what it answers."""

    def __init__(self, answers: Callable[[int], int] = lambda _: 202) -> None:
        self.came: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.enough = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.enough:
                    status = answers(len(outer.came))
                    outer.came.append((self.path, dict(self.headers), body))
                    outer.enough.notify_all()
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/events?who=lifl"

    def wait(self, number: int) -> list[dict[str, Any]]:
        with self.enough:
            assert self.enough.wait_for(lambda: len(self.came) >= number, 20)
            return [body for _, _, body in self.came]


@contextmanager
def listening(answers: Callable[[int], int] = lambda _: 202) -> Iterator[Listener]:
    listener = Listener(answers)
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield listener
    finally:
        listener.server.shutdown()
        thread.join()
        listener.server.server_close()
