# One replica of the ranking tier.
# Build it from the root of the checkout:
#   docker build -f deploy/docker/ranking.Dockerfile -t shortlist/ranking:0.1.0 .
#
# Neither TensorFlow nor Ray is in it, so `ranking.engine` is onnx or numpy. No artifact is inside: they come from a
# volume, or from a URL (SHORTLIST_ARTIFACTS) whose file system's package --build-arg FILE_SYSTEM
# names, for instance s3fs.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG FILE_SYSTEM=fsspec
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY shortlist shortlist
COPY ranking_svc ranking_svc
RUN python -m venv /opt/shortlist \
    && /opt/shortlist/bin/pip install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt '.[ranking,remote,redis]' "${FILE_SYSTEM}"

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --home-dir /var/cache/shortlist --create-home --shell /usr/sbin/nologin \
        shortlist
COPY --from=build /opt/shortlist /opt/shortlist
# HOME and /tmp are all that is ever written to: with a read-only root, mount something there.
ENV PATH=/opt/shortlist/bin:$PATH \
    HOME=/var/cache/shortlist \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    SHORTLIST_HOST=0.0.0.0 \
    SHORTLIST_PORT=7101 \
    SHORTLIST_WORKDIR=/work
WORKDIR /var/cache/shortlist
USER 10001:10001
EXPOSE 7101
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --start-interval=2s \
    CMD ["python", "-m", "shortlist.healthcheck", "127.0.0.1:7101"]
ENTRYPOINT ["python", "-P", "-m", "ranking_svc"]
