# One image for the daemon, the commands and the helpers: docs/deployment.md says how it is run.
#   docker build --tag volferry .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# what is shipped has no pip of its own
RUN python3 -m venv --without-pip /opt/volferry
WORKDIR /src
# before the sources: this layer changes only with the lock file
COPY requirements.lock ./
# botocore describes every service of AWS: what is kept are S3, and whoever gives out credentials for it
RUN python3 -m pip --python /opt/volferry/bin/python install --quiet --require-hashes -r requirements.lock \
    && find /opt/volferry/lib/python3*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY daemon daemon
RUN python3 -m pip --python /opt/volferry/bin/python install --quiet --no-deps .

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="volferry" \
      org.opencontainers.image.description="Backs up and restores the data of Docker volumes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# the programs of a helper, certificates of object stores, ssh for stores and engines elsewhere, and time zones of schedules
RUN export DEBIAN_FRONTEND=noninteractive && apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates coreutils findutils openssh-client tar tzdata zstd \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
# For root without capabilities, which is what compose.yaml makes of it, and for `--user volferry`: both can write to these,
# and so to volumes that are mounted there for the first time.
RUN groupadd --gid 10633 volferry \
    && useradd --uid 10633 --gid 10633 --no-create-home --home-dir /var/lib/volferry --shell /usr/sbin/nologin volferry \
    && install --directory --owner=root --group=volferry --mode=0770 /var/lib/volferry /backups
COPY --from=build /opt/volferry /opt/volferry
# state and default store are in the same place, whoever the user is
ENV PATH=/opt/volferry/bin:$PATH PYTHONUNBUFFERED=1 XDG_STATE_HOME=/var/lib XDG_DATA_HOME=/var/lib
# No VOLUME: each helper is a container of this image too, and would get one of its own.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m CMD ["volferry", "status", "--health"]
ENTRYPOINT ["volferry"]
CMD ["daemon"]
