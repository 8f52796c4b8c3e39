ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/volferry && python3 -m venv /opt/build \
    && /opt/build/bin/pip install --quiet hatchling
WORKDIR /src
# before the sources: this layer changes only with the lock file
COPY requirements.lock ./
RUN /opt/volferry/bin/pip install --quiet --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY daemon daemon
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/volferry/bin/pip install --quiet --no-deps --no-index /wheels/volferry-*.whl \
    && /opt/volferry/bin/pip uninstall --quiet --yes pip

FROM ${BASE}
# what a helper is made of, where this image serves as one
RUN apt-get update \
    && apt-get install -y --no-install-recommends coreutils findutils tar zstd \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/volferry /opt/volferry
ENV PATH=/opt/volferry/bin:$PATH PYTHONUNBUFFERED=1
VOLUME /var/lib/volferry
ENTRYPOINT ["volferry"]
