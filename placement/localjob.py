"""One job of a local run, as the engine knows it: its files, its coordinator's line, where it is.

Owns what the coordinator and the trainers of a job are started with, and the files of its clients.
Starts no process: engine.py does, and hears what they say.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from lifl.events import emit
from lifl.placement import clientfiles, cloudevents, resume
from lifl.placement.cloudevents import About
from lifl.placement.fabric import CLIENTS, CONTROL, Fabric
from lifl.placement.host import LOOPBACK
from lifl.placement.keyring import Keyring
from lifl.placement.limits import full_disk_says
from lifl.placement.sink import TIMEOUT_S, Sink


class LocalJob:
    """One job.

    Args:
        config: what local.py has made of the job: keys, folders, nodes.
        directory: of the run, where configurations of processes go.
        number: of the job in descriptors and routing maps.
        is_shared: there are other jobs on the same nodes.

    Attributes:
        done: it is complete.
        is_over: it is complete, or has failed.
        is_withdrawn: agents have heard that there is nothing of it any more.
    """

    def __init__(
        self, config: dict[str, Any], directory: Path, number: int, *, is_shared: bool
    ) -> None:  # fmt: skip
        self.config, self.number, self.is_shared = config, number, is_shared
        self.name: str = config["name"]
        self.run_dir = Path(config["run_dir"])
        self._directory = directory
        self.listener: socket.socket
        self.endpoint = ""
        self._netns: dict[str, str | None] = {}
        url, run = config["event_sink"], self.run_dir.name
        self.sink = Sink(url) if url else None
        self._about = About(self.name, f"urn:lifl:run:{run}", f"{run}/{config['start']}")
        self.key: str = config["coordinator"][0]
        self.gateways: dict[str, list[str]] = {}
        self.has_begun = self.done = self.is_over = self.is_withdrawn = False
        self._line = -1

    def listen(self, fabric: Fabric | None) -> None:
        """Where its coordinator is called; in the network of namespaces, where there is one."""
        if fabric is None:
            self.listener = socket.create_server((LOOPBACK, 0), backlog=1024)
        else:
            self.listener = fabric.listen(CONTROL, backlog=1024)
            self._netns = {name: fabric.path(name) for name in (CONTROL, CLIENTS)}
        self.endpoint = "tcp://{}:{}".format(*self.listener.getsockname())

    def named(self, what: str) -> str:
        """Of a process of this job."""
        return f"{what} of {self.name}" if self.is_shared else what

    def say(self, event: str, **fields: Any) -> None:
        """An event, with the job's name where there are several; also to its sink of events."""
        known = {"event": event, **fields}
        if event == "done":
            known["place"] = str(self.run_dir / "model.safetensors")
        if self.sink is not None and (made := cloudevents.of(known, self._about)) is not None:
            self.sink.put(made)
        emit(event, **fields, **({"job": self.name} if self.is_shared else {}))

    def close_sink(self, words_s: float) -> None:
        """A sink that is there has everything by now, or soon."""
        if self.sink is not None:
            self.sink.close(words_s)
            if lost := self.sink.join(words_s + TIMEOUT_S):
                emit("warning", text=f"{lost} events were not taken by spec.eventSink, "
                     f"{self.sink.url}: see whether it is there")  # fmt: skip

    def posted(self) -> dict[str, Any]:
        """What agents hear of it."""
        return {
            "name": self.name, "number": self.number, "endpoint": self.endpoint, "key": self.key,
        }  # fmt: skip

    # -- the coordinator ---------------------------------------------------------------------
    def write_coordinators(self) -> Path:
        """Its configuration.

        The listening socket is the engine's, so that nobody else gets its port and those who call
        while there is no coordinator wait in its backlog.
        """
        first = self.config["metrics_port"]
        return self._write("coordinator", {
            "job": self.config["job"], "run_dir": self.config["run_dir"],
            "nodes": {name: keys[0] for name, keys in self.config["nodes"].items()},
            "keys": self.config["coordinator"], "listen": self.endpoint,
            "listen_fd": self.listener.fileno(), "start": self.config["start"],
            "clients": self.config["clients"], "keyring": self.config["keyring"],
            "observers": [self.config["observer"][0]],
            "workers": [keys[0] for keys in self.config["workers"]],
            "metrics_port": first + self.number - 1 if first else 0,
            "number": self.number, "shared": self.is_shared, "netns": self._netns.get(CONTROL),
        })  # fmt: skip

    def hears(self, line: int) -> None:
        """Where its coordinator reads; a new one has a new line."""
        self.close()
        self._line = line

    def tell(self, message: dict[str, Any]) -> None:
        """Say something to the coordinator; one that is gone asks again when it is back."""
        if self._line >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._line, json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        if self._line >= 0:
            os.close(self._line)
            self._line = -1

    # -- clients -----------------------------------------------------------------------------
    def take_gateways(self, gateways: dict[str, list[str]]) -> bool:
        """Write down where they are; False where that is known, so that clients are there."""
        if self.gateways:
            return False
        self.gateways = self.config["gateways"] = gateways
        resume.keep({k: v for k, v in self.config.items() if k != "directory"})
        with full_disk_says(self.run_dir / "clients"):
            self._write_client_files()
        return True

    def write_trainers(self) -> Path:
        """Configuration of all but those whose rights were taken away before the run went on."""
        keys = [public for public, _ in self.config["client_keys"]]
        files = [*zip(keys, self.config["client_files"], strict=True)][: self.config["trainers"]]
        entries = Keyring(Path(self.config["keyring"])).entries
        revoked = {entry.public_key: entry.name for entry in entries if entry.revoked_at}
        for key, _ in files:
            if key in revoked:
                self.say("warning", text=f"{revoked[key]} is revoked: its trainer is not started")
        return self._write("trainers", {
            "job": self.config["job"], "name": self.config["name"], "gateways": self.gateways,
            "observer": self.config["observer"],
            "client_files": [file for key, file in files if key not in revoked],
            "workers": self.config["workers"], "client_count": self.config["client_count"],
            "others": self.config["outside"], "is_new": self.config["start"] == 1,
            "netns": self._netns.get(CLIENTS), "observer_netns": self._netns.get(CONTROL),
        })  # fmt: skip

    def _write_client_files(self) -> None:
        """One file a client: all that it needs to take part."""
        where, job = list(self.gateways.values()), self.config["name"]
        folder = self.run_dir / "clients"
        for index, file in enumerate(map(Path, self.config["client_files"])):
            public, secret = self.config["client_keys"][index]
            clientfiles.write(
                folder, file.stem, job=job, where=where[index % len(where)], public_key=public,
                secret_key=secret, index=self.config["first_file"] + index,
                count=self.config["client_count"],
            )  # fmt: skip
        enrolled = clientfiles.write_outside(
            folder, Keyring(Path(self.config["keyring"])).entries, job=job,
            gateways=self.gateways, own=len(self.config["clients"]),
        )  # fmt: skip
        if self.config["outside"]:
            others = self.config["client_files"][self.config["trainers"] :]  # for other terminals
            self.say("endpoint", endpoint=where[0][0], files=str(folder), enrolled=[*enrolled],
                     outsiders=[Path(file).stem for file in others],
                     keys=self.config["keyring"])  # fmt: skip

    def _write(self, name: str, fields: dict[str, Any]) -> Path:
        path = self._directory / f"{name}-{self.number}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(fields))
        return path
