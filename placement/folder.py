"""Where checkpoints go: a folder on this machine, or one behind an fsspec URL.

Owns making a file appear there whole or not at all, and nothing of what is in it.  Called by
checkpoint.py, from a thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from lifl.errors import Unsupported

Chunk = bytes | memoryview


class Folder(Protocol):
    """A place with files in it; every method may raise OSError."""

    @property
    def where(self) -> str:
        """For people."""

    def names(self) -> list[str]: ...

    def write(self, name: str, chunks: Iterable[Chunk]) -> None:
        """The file is there whole, or as it was."""

    def read(self, name: str) -> bytes: ...

    def remove(self, name: str) -> None: ...


def folder(path: str, run: str, *, beside: Path) -> Folder:
    """The folder of one run below `path`, which is relative to `beside` or a URL.

    Raises:
        Unsupported: a URL, and fsspec or what it needs for it is not installed.
    """
    return Remote(f"{path}/{run}") if "://" in path else Local(beside / path / run)


class Local:
    """A folder of this machine: a temporary file, fsync, rename."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def where(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return os.listdir(self.path) if self.path.is_dir() else []

    def write(self, name: str, chunks: Iterable[Chunk]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f"{name}.new"
        try:
            with temporary.open("wb", buffering=0) as file:
                for chunk in chunks:
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            temporary.rename(self.path / name)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class Remote:
    """A folder that fsspec knows: s3://, gs://, file://, ..."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec  # type: ignore[import-untyped,unused-ignore]

            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise Unsupported(
                f"spec.checkpoint.path {url}: {error}; pip install 'lifl[checkpoint]' and what "
                "fsspec asks for"
            ) from error
        self._url = url

    @property
    def where(self) -> str:
        return self._url

    def names(self) -> list[str]:
        try:
            found: list[Any] = self._fs.ls(self._root, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return [str(path).rpartition("/")[2] for path in found]

    def write(self, name: str, chunks: Iterable[Chunk]) -> None:
        temporary = f"{self._root}/{name}.new"
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            with self._fs.open(temporary, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            self._fs.mv(temporary, f"{self._root}/{name}")
        except OSError:
            raise
        except Exception as error:  # every back end has errors of its own
            raise OSError(None, str(error), self._url) from error
        finally:
            with contextlib.suppress(Exception):
                if self._fs.exists(temporary):
                    self._fs.rm(temporary)

    def read(self, name: str) -> bytes:
        data: bytes = self._fs.cat_file(f"{self._root}/{name}")
        return data

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{name}")
