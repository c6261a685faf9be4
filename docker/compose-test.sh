#!/usr/bin/env bash
# `make compose-test`: build both images, bring the whole stack up in a Docker engine of its own, run real jobs from
# outside the containers, on one machine and on several, take everything down. Needs Debian or Ubuntu, root and .venv;
# docs/deploy.md says the rest.
#
# The first run installs packages and makes a base image (about 5 minutes in all); later ones take about 5.
set -euo pipefail
cd "$(dirname "$0")/.."

cannot() {
  echo "compose-test cannot run here: $1" >&2
  exit 1
}
[ "$(uname -s)" = Linux ] || cannot "it needs Linux, for network namespaces, but this is $(uname -s)."
[ "$(id -u)" = 0 ] || cannot "it needs root, to start a Docker engine of its own, but this is uid $(id -u)."
command -v apt-get >/dev/null || cannot "it needs apt-get, to make a base image without pulling one."
[ -x .venv/bin/python ] || cannot "it needs the project's .venv: run 'make setup' first."

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need dockerd docker.io
need iptables iptables
need debootstrap debootstrap
need ip iproute2
need nsenter util-linux
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  apt-get update -qq
  # policy-rc.d would only be asked for a service: none is started, our engine is our own.
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    cannot "apt-get could not install ${missing[*]}."
fi

cache=$PWD/.cache/containers
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || cannot "another compose-test is running in this checkout."

docker/test/fetch_cli_plugins.sh >/dev/null || cannot "Docker's compose plugin could not be fetched."
if [ ! -e "$cache/base.tar" ]; then
  echo "making a base image by debootstrap: about 80 s, once"
  docker/test/make_base.sh "$cache/base.tar" || cannot "debootstrap could not make a base image."
fi
exec .venv/bin/python docker/test/compose_test.py
