# The public service; --shard and --ranker say where the tiers are.
# Build it from the root of the checkout:
#   docker build -f deploy/docker/orchestrator.Dockerfile -t shortlist/orchestrator:0.1.0 .
#
# Neither the tiers nor TensorFlow nor Ray are in it. It reads shortlist.yaml and schema.yaml
# of its workdir, and no artifact.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY shortlist shortlist
COPY orchestrator orchestrator
RUN python -m venv /opt/shortlist \
    && /opt/shortlist/bin/pip install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt '.[redis]'

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --home-dir /var/cache/shortlist --create-home --shell /usr/sbin/nologin \
        shortlist
COPY --from=build /opt/shortlist /opt/shortlist
# HOME and /tmp are all that is ever written to: with a read-only root, mount something there.
ENV PATH=/opt/shortlist/bin:$PATH \
    HOME=/var/cache/shortlist \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SHORTLIST_HOST=0.0.0.0 \
    SHORTLIST_PORT=7700 \
    SHORTLIST_WORKDIR=/work
WORKDIR /var/cache/shortlist
USER 10001:10001
EXPOSE 7700
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=1m --start-interval=2s \
    CMD ["python", "-m", "shortlist.healthcheck", "127.0.0.1:7700"]
ENTRYPOINT ["python", "-P", "-m", "orchestrator"]
