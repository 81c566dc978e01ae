"""A round over the bulk port beside raw TCP that moves the same bytes.

    python benchmarks/bench_lane.py [--rounds 9] [--only 46.8MB]

Whole jobs, as `lifl run` runs them: coordinator, agent, gateway, aggregators, and clients in
processes of their own that send back what they got.  A round is everything from its start to the
next model: fetch, pack, upload, fold, hand-off, publish.  The floor of the same run: as many
processes, each sending and receiving the same bytes over one TCP connection, and one process
that takes them into a scratch buffer and sends from another.  Jobs and floors alternate; figures
are medians over rounds, the first of a job left out; set-up is outside the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MB = 1_000_000
HELPER = '''
import os
import numpy as np

SIZE = int(os.environ["BENCH_FLOATS"])

def initial_model():
    return {"w": np.zeros(SIZE, np.float32)}

def train(client):
    for round_ in client.rounds():
        round_.send(round_.model, weight=1.0)
'''


# -- floor ---------------------------------------------------------------------------------------
def floor(clients: int, size: int, rounds: int) -> tuple[list[float], float]:
    """Seconds of each round, and CPU seconds of the receiving process a round."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    pids = []
    for _ in range(min(clients, 8)):
        pid = os.fork()
        if pid == 0:
            _floor_clients(listener.getsockname(), clients // min(clients, 8), size, rounds)
            os._exit(0)
        pids.append(pid)
    socks = [listener.accept()[0] for _ in range(clients)]
    for sock in socks:
        sock.setblocking(False)
    scratch, source = memoryview(bytearray(1 << 20)), memoryview(bytearray(1 << 20))
    took, before = [], time.process_time()
    for _ in range(rounds):
        began = time.perf_counter()
        with selectors.EpollSelector() as poll:
            left = {}
            for sock in socks:
                poll.register(sock, selectors.EVENT_WRITE, [size, size])
                left[sock] = True
            while left:
                for key, _ in poll.select():
                    sock, todo = key.fileobj, key.data
                    assert isinstance(sock, socket.socket)
                    try:
                        if todo[0]:  # down first, as in a round
                            todo[0] -= sock.send(source[: min(todo[0], 1 << 20)])
                            if not todo[0]:
                                poll.modify(sock, selectors.EVENT_READ, todo)
                        else:
                            todo[1] -= sock.recv_into(scratch, min(todo[1], 1 << 20))
                            if not todo[1]:
                                poll.unregister(sock)
                                del left[sock]
                    except BlockingIOError:
                        pass
        took.append(time.perf_counter() - began)
    cpu_s = (time.process_time() - before) / rounds
    for sock in socks:
        sock.close()
    listener.close()
    for pid in pids:
        os.waitpid(pid, 0)
    return took[1:], cpu_s


def _floor_clients(address: Any, count: int, size: int, rounds: int) -> None:
    socks = [socket.create_connection(address) for _ in range(count)]
    scratch, source = memoryview(bytearray(1 << 20)), memoryview(bytearray(1 << 20))
    for _ in range(rounds):
        for sock in socks:
            left = size
            while left:
                left -= sock.recv_into(scratch, min(left, 1 << 20))
            left = size
            while left:
                left -= sock.send(source[: min(left, 1 << 20)])


# -- jobs ----------------------------------------------------------------------------------------
def job(
    clients: int, size: int, rounds: int, folder: Path, spec: dict[str, Any]
) -> dict[str, Any]:
    """One whole job: seconds of its rounds but the first, CPU of gateway and aggregators."""
    (folder / "bench_job.py").write_text(HELPER)
    whole = {
        "apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob", "metadata": {"name": "bench"},
        "spec": {
            "rounds": rounds, "model": {"initial": "bench_job:initial_model"},
            "trainer": {"entrypoint": "bench_job:train", "clients": clients},
            "aggregation": {"fanIn": 8}, **spec,
        },
    }  # fmt: skip
    path = folder / "job.json"
    path.write_text(json.dumps(whole))
    process = subprocess.Popen(
        [sys.executable, "-m", "lifl", "run", str(path), "--json", "--out", str(folder / "runs")],
        stdout=subprocess.PIPE, text=True,
        env=os.environ | {"BENCH_FLOATS": str(size // 4), "XDG_RUNTIME_DIR": str(folder)},
    )  # fmt: skip
    assert process.stdout is not None
    node: list[int] = []
    began = last = {"cpu": 0.0}
    counted = 0
    seconds = []
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "failed":
            raise SystemExit(f"the job failed: {event['error']}")
        if event["event"] != "published":
            continue
        node = node or _pids(folder, "lifl.functions.gateway", "lifl.functions.aggregator")
        now = {"cpu": sum(map(_cpu_s, node))}
        if event["round"] == 1:
            began = now
        elif event["round"] < rounds:  # at the last one they may be gone already
            last, counted = now, counted + 1
        seconds.append(event["seconds"])
    if process.wait():
        raise SystemExit(f"the job ended with status {process.returncode}")
    return {
        "seconds": seconds[1:], "first": seconds[0],
        "cpu_s": (last["cpu"] - began["cpu"]) / max(1, counted),
    }  # fmt: skip


def _pids(folder: Path, *modules: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(module in words for module in modules) and any(str(folder) in w for w in words):
            found.append(int(path.parent.name))
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- the table -----------------------------------------------------------------------------------
def compare(
    name: str, clients: int, size: int, rounds: int, folder: Path, *, repeats: int,
    spec: dict[str, Any],
) -> None:  # fmt: skip
    floors: list[float] = []
    floor_cpu: list[float] = []
    jobs: list[float] = []
    cpu: list[float] = []
    first: list[float] = []
    for _ in range(repeats):
        took, cpu_s = floor(clients, size, rounds)
        floors += took
        floor_cpu.append(cpu_s)
        result = job(clients, size, rounds, folder, spec)
        jobs += result["seconds"]
        cpu.append(result["cpu_s"])
        first.append(result["first"])
    middle = statistics.median
    below, time_s = middle(floors), middle(jobs)
    print(
        f"{name:34s}{time_s * 1e3:9.1f} ms  floor {below * 1e3:8.1f} ms  {time_s / below:6.2f} x"
        f"   CPU {middle(cpu) * 1e3:6.0f} ms, floor {middle(floor_cpu) * 1e3:6.0f} ms"
        f"   first round {middle(first) * 1e3:7.0f} ms", flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each job")
    parser.add_argument("--repeats", type=int, default=2, help="jobs and floors of each case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}; "
          f"load {os.getloadavg()[0]:.1f} when it began")  # fmt: skip
    cases: dict[str, tuple[int, int, dict[str, Any]]] = {
        "8 x 46.8MB whole job, sealed": (8, 46_800_000, {}),
        "8 x 46.8MB whole job, plain": (8, 46_800_000, {"insecure": True}),
        "8 x 46.8MB whole job, lane zmq": (8, 46_800_000, {"clients": {"lane": "zmq"}}),
        "8 x 256B whole job": (8, 256, {}),
        "64 x 1MB whole job, sealed": (64, 1_000_000, {}),
    }
    for name, (clients, size, spec) in cases.items():
        if arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
            compare(
                name, clients, size, arguments.rounds, Path(folder),
                repeats=arguments.repeats, spec=spec,
            )  # fmt: skip


if __name__ == "__main__":
    main()
