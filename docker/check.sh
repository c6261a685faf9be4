#!/usr/bin/env bash
# Check the container files without an engine: hadolint over every Dockerfile, `docker compose config` over every way
# the compose files are combined. `make check` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."

hadolint=.venv/bin/hadolint
[ -x "$hadolint" ] || hadolint=hadolint
"$hadolint" docker/*.Dockerfile docker/test/*.Dockerfile

if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
else
  # The plugin is a program of its own: no docker command is needed.
  compose=("$(docker/test/fetch_cli_plugins.sh)/cli-plugins/docker-compose")
fi
# --env-file: a person's own .env must not decide what is checked.
config() { LADLE_REDIS_PASSWORD=check "${compose[@]}" --env-file /dev/null "$@" config --quiet; }
config -f docker-compose.yml
config -f docker-compose.yml -f docker-compose.gpu.yml
config -f docker-compose.yml -f docker/test/compose.build.yml
if LADLE_REDIS_PASSWORD='' "${compose[@]}" --env-file /dev/null -f docker-compose.yml config --quiet 2>/dev/null; then
  echo "docker-compose.yml must refuse to start without LADLE_REDIS_PASSWORD" >&2
  exit 1
fi

# The files for Kubernetes, put together, against its schemas.
if command -v kubectl >/dev/null; then
  validate=.venv/bin/kubernetes-validate
  [ -x "$validate" ] || validate=kubernetes-validate
  kubectl kustomize docker/kubernetes | "$validate" --strict --quiet -
else
  echo "kubectl is not installed: docker/kubernetes is checked file by file in the tests only" >&2
fi
echo "container files: ok"
