# LIFL's image: one for agent, gateway, aggregators, operator and trainers.
#
#   buildah build --tag lifl .          or  docker build --tag lifl .
#
# BASE is Debian 12 or one that has its packages.  How a machine reaches registries (apt's and pip's
# configuration, certificates) is mounted from outside where that is needed; `make cluster-image`
# does so, and makes BASE of Debian's packages where nothing can be pulled.

ARG BASE=docker.io/library/debian:bookworm-slim

# ---- what every stage has ----------------------------------------------------------------

FROM ${BASE} AS python
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends python3 libbpf1 >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /var/cache/debconf/*

# ---- compilers, and LIFL compiled --------------------------------------------------------

FROM python AS build
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_CERT PIP_DEFAULT_TIMEOUT
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends gcc libc6-dev python3-dev python3-venv \
      clang libbpf-dev linux-libc-dev libcap2-bin >/dev/null
RUN python3 -m venv /opt/lifl
WORKDIR /src

# What LIFL depends on is a layer of its own: it changes less often than LIFL does.
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = p["optional-dependencies"]; \
print(*p["dependencies"], *extras["cluster"], *extras["examples"], *extras["checkpoint"], sep="\n")' \
    >requirements.txt \
 && /opt/lifl/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --quiet \
      --requirement requirements.txt

# The eBPF object is package data: it is compiled first, and needs no compiler from then on.
COPY setup.py README.md LICENSE ./
COPY lifl lifl
COPY shm shm
COPY functions functions
COPY proxy_ebpf proxy_ebpf
COPY placement placement
RUN PYTHONPATH=. /opt/lifl/bin/python -m lifl.proxy_ebpf.build \
 && /opt/lifl/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --quiet \
      --no-deps '.[cluster,examples,checkpoint]' \
 && /opt/lifl/bin/pip uninstall --quiet --yes pip setuptools

# An agent without root gets its two capabilities from the file that it starts from: an interpreter
# that nothing else uses.  Where the container was not given them, it does not start at all.
RUN cp "$(readlink -f /usr/bin/python3)" /opt/lifl/bin/python-agent \
 && setcap cap_bpf,cap_net_admin=ep /opt/lifl/bin/python-agent

# Others' tests run nowhere, so they stay behind; bytecode is written now, since no user may later.
RUN find /opt/lifl/lib/python3*/site-packages/scipy /opt/lifl/lib/python3*/site-packages/sklearn \
      -type d -name tests -prune -exec rm -rf {} + \
 && /opt/lifl/bin/python -m compileall -q -j 2 /opt/lifl/lib

# ---- what is shipped ---------------------------------------------------------------------

FROM python
RUN useradd --uid 10001 --user-group --no-log-init --home-dir /nonexistent --no-create-home \
      --shell /usr/sbin/nologin lifl
COPY --from=build /opt/lifl /opt/lifl
COPY examples /opt/lifl/examples
ENV PATH=/opt/lifl/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["lifl"]
CMD ["--help"]
