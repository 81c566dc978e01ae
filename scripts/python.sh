# Which Python .venv is made of; read by setup.sh.
#
# The distribution's own comes first where nothing is missing for it: Debian's is built with
# optimisations (PGO) that pyenv leaves out unless told otherwise, which docs/benchmarks.md measures.

DISTRIBUTIONS=${DISTRIBUTIONS-/usr/bin/python3.11 /usr/bin/python3}

find_python() { # the first that will do, if possible one for which nothing is missing
    any=
    for candidate in ${PYTHON:-$DISTRIBUTIONS python3.11 python3 python3.12 python3.13 python3.14}; do
        is_python "$candidate" || continue
        found=$(command -v "$candidate")
        any=${any:-$found}
        if [ -z "$(for_python "$found")" ]; then
            printf '%s\n' "$found"
            return
        fi
    done
    printf '%s\n' "$any"
}

is_python() { # of a version that LIFL runs with
    [ "$("$1" -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null)" = True ]
}

for_python() { # packages that building with it needs and that are missing
    version=$("$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    command -v gcc >/dev/null 2>&1 || printf '%s ' gcc libc6-dev
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        printf '%s ' "$version-dev"
    "$1" -c 'import ensurepip, venv' 2>/dev/null || printf '%s ' "$version-venv"
}

base_of() { # the interpreter below a virtual environment's, or itself
    "$1" -c 'import os, sys; print(os.path.realpath(sys._base_executable))' 2>/dev/null
}
