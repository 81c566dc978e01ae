"""lifl.placement (see the module list in docs/architecture.md)."""

if __name__ != "lifl.placement":
    raise ImportError(f"import lifl.placement, not {__name__}: this folder is a part of lifl")
