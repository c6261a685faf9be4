#!/usr/bin/env bash
# Write a tar of a minimal Debian 12 with Python 3.11, to stand in for the official python:3.11-slim-bookworm where no
# image can be pulled: make_base.sh TARBALL. Needs root and debootstrap; takes about 80 seconds.
set -euo pipefail
tarball=$1
repo=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=docker/test/debian.sh
. "$repo/docker/test/debian.sh"

mkdir -p "$(dirname "$tarball")"
root=$(mktemp -d "${TMPDIR:-/tmp}/ladle-base.XXXXXX")
trap 'rm -rf --one-file-system "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
  bookworm "$root" "$(debian_mirror)" >"$tarball.log" 2>&1 || {
  tail -n 20 "$tarball.log" >&2
  exit 1
}
# What the official image has: `python` on PATH, and a pip that may install outside a virtual environment.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
ln -sf python3 "$root/usr/bin/python"
# Builds reach the package index with the certificates that this machine trusts.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar --numeric-owner --one-file-system -C "$root" -cf "$tarball.part" .
mv "$tarball.part" "$tarball"
