"""lifl.shm (see the module list in docs/architecture.md)."""

if __name__ != "lifl.shm":
    raise ImportError(f"import lifl.shm, not {__name__}: this folder is a part of lifl")
