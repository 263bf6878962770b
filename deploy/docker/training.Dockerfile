# A node of the Ray cluster that trains, and the command line: import, train, evaluate, redeploy.
# Build it from the root of the checkout:
#   docker build -f deploy/docker/training.Dockerfile -t shortlist/training:0.1.0 .
#
# It serves nothing, so it listens on no port of ours and has no health check: KubeRay, and
# deploy/compose.yaml, ask Ray itself.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG FILE_SYSTEM=fsspec
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY shortlist shortlist
COPY retrieval_svc retrieval_svc
COPY ranking_svc ranking_svc
COPY orchestrator orchestrator
COPY training training
COPY simulator simulator
RUN python -m venv /opt/shortlist \
    && /opt/shortlist/bin/pip install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt '.[train,remote,redis]' "${FILE_SYSTEM}"

FROM ${PYTHON_IMAGE}
# LightGBM is linked against it. Debian keeps one version of a package, so none can be named.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/cache/shortlist --create-home --shell /usr/sbin/nologin \
        shortlist
COPY --from=build /opt/shortlist /opt/shortlist
# HOME, /tmp and the workdir are all that is ever written to.
ENV PATH=/opt/shortlist/bin:$PATH \
    HOME=/var/cache/shortlist \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    TF_USE_LEGACY_KERAS=1 \
    SHORTLIST_WORKDIR=/work
WORKDIR /var/cache/shortlist
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["shortlist"]
