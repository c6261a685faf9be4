# Stands in for the official redis image where none can be pulled: Debian's own server, with a user and a folder of the
# same names. The check tags it with the name that docker-compose.yml asks for.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=redis --group=redis /data
VOLUME /data
WORKDIR /data
CMD ["redis-server"]
