"""lifl.functions (see the module list in docs/architecture.md)."""

if __name__ != "lifl.functions":
    raise ImportError(
        f"import lifl.functions, not {__name__}: the folder is a part of the lifl package"
    )
