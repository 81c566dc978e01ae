# LIFL's image: one for agent, gateway, aggregators, operator and trainers.
#
#   docker build --tag lifl .        or        buildah build --tag lifl .
#
# BASE is Debian 12, or made of its packages.  How a machine reaches registries (apt's and pip's
# configuration, certificates) is mounted from outside where that is needed; `make cluster-image`
# does so, and makes BASE itself.

ARG BASE=docker.io/library/debian:bookworm-slim

# ---- what every stage has ----------------------------------------------------------------

FROM ${BASE} AS python
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends python3 libbpf1 >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /var/cache/debconf/*

# ---- compilers, and what LIFL depends on -------------------------------------------------

FROM python AS tools
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_CERT PIP_DEFAULT_TIMEOUT
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends gcc libc6-dev python3-dev python3-venv \
      clang libbpf-dev linux-libc-dev libcap2-bin >/dev/null
WORKDIR /src
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = p["optional-dependencies"]; \
print(*p["dependencies"], *extras["cluster"], *extras["examples"], *extras["checkpoint"], sep="\n")' \
    >requirements.txt \
 && python3 -m venv /opt/lifl \
 && /opt/lifl/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --quiet \
      --requirement requirements.txt

FROM tools AS dependencies
# Others' tests run nowhere, and the Kubernetes client is there twice, once for asyncio, which nothing
# here uses: they stay behind.  Bytecode is written now, since no user may later.
RUN /opt/lifl/bin/pip uninstall --quiet --yes pip setuptools \
 && find /opt/lifl/lib/python3*/site-packages/scipy /opt/lifl/lib/python3*/site-packages/sklearn \
      -type d -name tests -prune -exec rm -rf {} + \
 && rm -rf /opt/lifl/lib/python3*/site-packages/kubernetes/aio \
 && /opt/lifl/bin/python -m compileall -q -j 2 /opt/lifl/lib
# An agent without root gets its two capabilities from the file that it starts from: an interpreter
# that nothing else uses.  Where the container was not given them, it does not start at all.
RUN cp "$(readlink -f /usr/bin/python3)" /opt/lifl/bin/python-agent \
 && setcap cap_bpf,cap_net_admin=ep /opt/lifl/bin/python-agent

# ---- LIFL, compiled ----------------------------------------------------------------------

FROM tools AS compiled
COPY setup.py README.md LICENSE ./
COPY lifl lifl
COPY shm shm
COPY functions functions
COPY proxy_ebpf proxy_ebpf
COPY placement placement
# The eBPF object is package data: it is compiled first, and needs no compiler from then on.
RUN PYTHONPATH=. /opt/lifl/bin/python -m lifl.proxy_ebpf.build \
 && /opt/lifl/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --quiet \
      --no-deps --prefix=/compiled . \
 && /opt/lifl/bin/python -m compileall -q -s /compiled -p /opt/lifl /compiled/lib

# ---- what is shipped: what changes most comes last ---------------------------------------

FROM python
RUN useradd --uid 10001 --user-group --no-log-init --home-dir /nonexistent --no-create-home \
      --shell /usr/sbin/nologin lifl
COPY --from=dependencies /opt/lifl /opt/lifl
COPY examples /opt/lifl/examples
COPY --from=compiled /compiled /opt/lifl
ENV PATH=/opt/lifl/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["lifl"]
CMD ["--help"]
