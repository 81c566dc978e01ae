"""lifl.shm (see the module list in docs/architecture.md)."""

if __name__ != "lifl.shm":
    raise ImportError(f"import lifl.shm, not {__name__}: the folder is a part of the lifl package")
