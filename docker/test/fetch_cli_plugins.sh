#!/usr/bin/env bash
# Make `docker compose` and `docker buildx` available without installing anything: print a folder to use as
# DOCKER_CONFIG. Debian 12 ships compose v1, which is too old for our file, so Debian 13's packages are downloaded
# with an apt state of their own and unpacked under .cache/. The second run finds them there.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
cache=$repo/.cache/containers
config=$cache/cli
plugins=$config/cli-plugins

if [ -x "$plugins/docker-compose" ] && [ -x "$plugins/docker-buildx" ]; then
  echo "$config"
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "docker compose is absent, and it can be fetched only with apt: install Docker's compose and buildx plugins" >&2
  exit 1
fi
# shellcheck source=docker/test/debian.sh
. "$repo/docker/test/debian.sh"

apt=$cache/apt-trixie
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/unpacked" "$plugins"
: >"$apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) trixie main" >"$apt/sources.list"
options=(
  -qq
  -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
  # apt's unprivileged user cannot read a checkout in /root, and warns about it.
  -o APT::Sandbox::User=root
)
{
  apt-get "${options[@]}" update
  (cd "$apt" && apt-get "${options[@]}" download docker-compose docker-buildx)
  for package in "$apt"/docker-compose_*.deb "$apt"/docker-buildx_*.deb; do
    dpkg-deb --extract "$package" "$apt/unpacked"
  done
  for name in docker-compose docker-buildx; do
    # Not by name alone: a completion file for the shell has the same one.
    found=$(find "$apt/unpacked" -type f -path "*/cli-plugins/$name" | head -n 1)
    install -m 0755 "$found" "$plugins/$name"
  done
  rm -r "$apt"
} >&2
echo "$config"
