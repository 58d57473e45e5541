# The code and its packages as an image, for Docker and Kubernetes work pools (docs/deployment.md). Data, DVC's cache
# and the registry are in the mounted workspace, in which runs work.
FROM python:3.11-slim

RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/cifarflow
COPY requirements.lock Makefile ./
RUN python -m venv .venv \
    && awk '/^[^ ]/ {inside = /^uv==/} inside' requirements.lock > uv.lock.txt \
    && .venv/bin/pip install --no-cache-dir --require-hashes -r uv.lock.txt \
    && VIRTUAL_ENV=.venv .venv/bin/uv pip sync --no-cache --compile-bytecode --require-hashes requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY tasks tasks
COPY flows flows
RUN VIRTUAL_ENV=.venv .venv/bin/uv pip install --no-cache --no-deps --no-build-isolation --editable .
ENV PATH=/opt/cifarflow/.venv/bin:$PATH \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DVC_NO_ANALYTICS=1
WORKDIR /workspace
ENTRYPOINT []
CMD ["cifarflow", "doctor"]
