"""lifl.proxy_ebpf (see the module list in docs/architecture.md)."""

if __name__ != "lifl.proxy_ebpf":
    raise ImportError(f"import lifl.proxy_ebpf, not {__name__}: this folder is a part of lifl")
