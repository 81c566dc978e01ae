"""What a node can do, measured when its agent starts rather than configured.

Owns two short measurements.  What follows from them is capacity.py's.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time

import numpy as np

from lifl.functions.kernels import Code, Input, Kernels, Section

_BYTES = 8 << 20
_TIMES = 3


def measure(kernels: Kernels, *, link_bytes_s: float = math.inf) -> dict[str, float]:
    """`fold_bytes_s`, `ingress_bytes_s` and `cores` here, rates the best of three; about 70 ms.

    Args:
        link_bytes_s: what the node's link brings, where that is known: more does not come in.
    """
    return {
        "fold_bytes_s": _fold(kernels),
        "ingress_bytes_s": min(max(_ingress() for _ in range(_TIMES)), link_bytes_s),
        "cores": float(len(os.sched_getaffinity(0))),
    }


def _fold(kernels: Kernels) -> float:
    section = Section(Code.F32, _BYTES // 4, 0, 0)
    inputs = [Input(np.ones(_BYTES // 4, np.float32).data.cast("B"), 1.0, False)] * 4
    out = np.zeros(_BYTES // 4, np.float32).data.cast("B")
    best = float("inf")
    for _ in range(_TIMES):
        began = time.perf_counter()
        kernels.fold(out, None, inputs, [section])
        best = min(best, time.perf_counter() - began)
    return len(inputs) * _BYTES / best


def _ingress() -> float:
    """Bytes per second that one TCP connection carries into memory here."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    data, target = bytes(1 << 20), bytearray(1 << 20)
    began = time.perf_counter()

    def send() -> None:
        for _ in range(_BYTES >> 20):
            near.sendall(data)
        near.close()

    sender = threading.Thread(target=send)
    sender.start()
    while far.recv_into(target):
        pass
    sender.join()
    far.close()
    return _BYTES / (time.perf_counter() - began)
