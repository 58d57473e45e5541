# This image has the code and its packages, for Docker and Kubernetes work pools. A run works in a clone of its own
# (docs/anywhere.md), or in a mounted workspace with data, DVC's cache and the registry (docs/deployment-setup.md). It runs as the
# user 1000, who owns /workspace and /cache and can change nothing else.
FROM python:3.11.16-slim-bookworm

RUN apt-get update && apt-get install -y --no-install-recommends git g++ make openssh-client && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/cifarflow
COPY requirements.lock Makefile ./
RUN python -m venv .venv \
    && awk '/^[^ ]/ {inside = /^uv==/} inside' requirements.lock > uv.lock.txt \
    && .venv/bin/pip install --no-cache-dir --require-hashes -r uv.lock.txt \
    && VIRTUAL_ENV=.venv .venv/bin/uv pip sync --no-cache --compile-bytecode --require-hashes requirements.lock
COPY pyproject.toml README.md LICENSE* ./
COPY models models
COPY tasks tasks
COPY flows flows
RUN VIRTUAL_ENV=.venv .venv/bin/uv pip install --no-cache --no-deps --no-build-isolation --editable . \
    && .venv/bin/python -m compileall -q flows tasks models
ENV PATH=/opt/cifarflow/.venv/bin:$PATH \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DVC_NO_ANALYTICS=1
# A job with DVC_SYSTEM_CONFIG_DIR=/etc/dvc-in-cache keeps DVC's cache in a volume at /cache.
RUN mkdir /etc/dvc-in-cache && printf '[cache]\n    dir = /cache\n' > /etc/dvc-in-cache/config
# With safe.directory, Git trusts a mounted workspace whoever owns it.
RUN useradd --uid 1000 --create-home cifarflow && mkdir /workspace /cache && chown 1000:1000 /workspace /cache \
    && git config --system --add safe.directory /workspace
USER 1000:1000
WORKDIR /workspace
ENTRYPOINT []
CMD ["cifarflow", "doctor"]
