#!/bin/sh
# Sets this checkout up, once: compiler and libraries, .venv, native extensions, eBPF object.
#
# As root on Debian it installs what is missing; otherwise it says what is missing.  Without
# clang or libbpf it goes on without eBPF: jobs then run over unix sockets.  A second run finds
# its stamp and does nothing.
#
#   PYTHON=python3.12 scripts/setup.sh    to choose the interpreter (3.11 or newer) instead of the
#                                         first for which nothing is missing, the distribution's
#                                         before others; .venv keeps its own until another is named

set -eu
umask 022
unset CDPATH
cd -- "$(dirname -- "$0")/.."
root=$(pwd -P)
venv=$root/.venv
stamp=$venv/.lifl-setup
object=proxy_ebpf/route.bpf.o

say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# ---- what the set-up depends on ---------------------------------------------------------

. scripts/python.sh

key() {
    printf '%s\n' "$root"
    {
        printf '%s\0' pyproject.toml setup.py scripts/setup.sh scripts/python.sh
        find shm functions proxy_ebpf -name '*.[ch]' -print0 | LC_ALL=C sort -z
    } | xargs -0 sha256sum
}

clang_is_there() {
    have clang || ls /usr/bin/clang-[0-9]* >/dev/null 2>&1
}

library_is_there() {
    PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null | grep -q 'libbpf\.so\.1'
}

for_ebpf() { # packages that eBPF lacks here
    clang_is_there || printf '%s ' clang
    library_is_there || printf '%s ' libbpf1
    [ -e /usr/include/bpf/bpf_helpers.h ] || printf '%s ' libbpf-dev
    [ -e /usr/include/linux/bpf.h ] || printf '%s ' linux-libc-dev
    { have bpftool || [ -x /usr/sbin/bpftool ]; } || printf '%s ' bpftool
}

# ---- already done? ----------------------------------------------------------------------

built() {
    [ -x "$venv/bin/lifl" ] && "$venv/bin/python" -c '' 2>/dev/null || return 1
    for source in shm/_words functions/kernels/_fold; do
        ls "$source".*.so >/dev/null 2>&1 || return 1
    done
    # An object that could not be built is no reason to set up again, unless it now can be.
    [ -e "$object" ] || { ! is_root && [ -n "$(for_ebpf)" ]; }
}

has_chosen() { # .venv is of the interpreter that was named, if one was
    [ -z "${PYTHON:-}" ] || [ "$(base_of "$venv/bin/python")" = "$(base_of "$PYTHON")" ]
}

wanted=$(key | sha256sum | cut -d' ' -f1)
if has_chosen && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ] && built; then
    exit 0
fi

# ---- packages of the distribution -------------------------------------------------------

python=$(find_python)
[ -n "$python" ] || [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is no Python 3.11 or newer: name another"
[ -n "$python" ] || die "Python 3.11 or newer is missing: install it, or name it: PYTHON=/path/to/python"

needed=$(for_python "$python")
ebpf=$(for_ebpf)
if [ -n "$needed$ebpf" ]; then
    install="apt-get install --no-install-recommends $needed$ebpf"
    if is_root && have apt-get; then
        say "installing $needed$ebpf"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
        # shellcheck disable=SC2086  # a list of packages
        apt-get install -qq -y --no-install-recommends $needed $ebpf >/dev/null ||
            [ -z "$(for_python "$python")" ] || die "installing failed; what is needed: $install"
    elif [ -n "$needed" ]; then
        die "missing, and needed to build: $needed; run make setup once as root, or as root: $install"
    fi
fi
ebpf=$(for_ebpf)
if [ -n "$ebpf" ]; then
    say "missing: $ebpf- going on without eBPF: descriptors go through unix sockets instead"
    say "  to have it: as root, make setup, or: apt-get install --no-install-recommends $ebpf"
fi

# ---- Python -----------------------------------------------------------------------------

if [ -e "$venv/.lifl-home" ] && [ "$(cat "$venv/.lifl-home")" != "$root" ]; then
    say "this folder has moved: making .venv again"
    rm -rf -- "$venv"
fi
if [ -e "$venv" ] && ! has_chosen; then
    say "another interpreter was chosen: making .venv again"
    rm -rf -- "$venv"
fi
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    say "step 1 of 3: making .venv with $python"
    rm -rf -- "$venv"
    "$python" -m venv "$venv" || die "$python cannot make a virtual environment"
fi
printf '%s\n' "$root" >"$venv/.lifl-home"
rm -f -- "$stamp"

# pip's own words are many; what of them says how far it is, is passed on.
progress() {
    sed -un -e 's/^Collecting \([A-Za-z0-9_.-]*\).*/setup:   fetching \1/p' \
        -e 's/^ *Building editable for lifl.*started.*/setup:   compiling LIFL/p' \
        -e 's/^Installing collected packages.*/setup:   installing/p'
}

say "step 2 of 3: installing LIFL and what it needs into .venv, and compiling its extensions;" \
    "the first time about a minute"
rm -f -- shm/_words.*.so functions/kernels/_fold.*.so # setuptools does not look at headers
status=$venv/.lifl-pip
rm -f -- "$status"
{
    "$venv/bin/python" -m pip install --progress-bar off --disable-pip-version-check \
        --root-user-action=ignore -e '.[dev,examples,report,checkpoint]' && echo done >"$status"
} | progress
[ -e "$status" ] || die "pip failed; its last lines say why"
rm -f -- "$status"

# ---- eBPF -------------------------------------------------------------------------------

rm -f -- "$object"
if clang_is_there && [ -e /usr/include/bpf/bpf_helpers.h ] && [ -e /usr/include/linux/bpf.h ]; then
    say "step 3 of 3: compiling the eBPF program"
    "$venv/bin/python" -m lifl.proxy_ebpf.build ||
        say "the eBPF program was not compiled: going on without eBPF"
fi

printf '%s\n' "$wanted" >"$stamp"
say "done; lifl is .venv/bin/lifl"
