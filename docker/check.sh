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
config() { env "$@" "${compose[@]}" --env-file /dev/null "${files[@]}" config --quiet; }
check() {
  files=()
  for file in "$@"; do files+=(-f "$file"); done
  config LADLE_KEYS=/keys LADLE_RESULTS=/results LADLE_HEAD=10.0.0.1 TEST_HOST=host
}
check docker-compose.yml
check docker-compose.yml docker-compose.gpu.yml
check docker-compose.yml docker-compose.head.yml
check docker-compose.worker.yml
check docker-compose.worker.yml docker-compose.gpu.yml
check docker-compose.yml docker/test/compose.build.yml
check docker-compose.worker.yml docker/test/compose.host.yml

refuses() {
  files=(-f "$1")
  if config "${@:2}" 2>/dev/null; then
    echo "$1 must refuse to start with only '${*:2}' set" >&2
    exit 1
  fi
}
refuses docker-compose.yml LADLE_REDIS_PASSWORD=old
refuses docker-compose.worker.yml LADLE_KEYS=/keys LADLE_RESULTS=/results
refuses docker-compose.worker.yml LADLE_KEYS=/keys LADLE_HEAD=10.0.0.1

# The files for Kubernetes, put together, against its schemas.
if command -v kubectl >/dev/null; then
  validate=.venv/bin/kubernetes-validate
  [ -x "$validate" ] || validate=kubernetes-validate
  kubectl kustomize docker/kubernetes | "$validate" --strict --quiet -
else
  echo "kubectl is not installed: docker/kubernetes is checked file by file in the tests only" >&2
fi
echo "container files: ok"
