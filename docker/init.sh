#!/bin/sh
# Make what `docker compose up` needs and git must not hold: .env with a random Redis password, and an access token.
#
#     docker/init.sh [NAME]     NAME is the token's, default "me"; run it again with another name for another person
#
# The token is printed once: only its hash is kept. An .env that is there stays as it is.
set -eu
cd "$(dirname "$0")/.."
umask 077

name=${1:-me}
refuse_name() {
  echo "\`NAME\` must be made of a-z, 0-9 and -, not begin with -, and have at most 64 letters, but is '$name'." >&2
  exit 2
}
case $name in
-* | *[!a-z0-9-]* | '') refuse_name ;;
esac
[ ${#name} -le 64 ] || refuse_name

hash_of_stdin() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}
random_hex() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

if [ ! -e .env ]; then
  # Hexadecimal, because it becomes part of an address.
  sed "s/^LADLE_REDIS_PASSWORD=.*/LADLE_REDIS_PASSWORD=$(random_hex 24)/" .env.example >.env
  if [ "$(id -u)" != 0 ]; then
    # The containers may read what this user may: safetensors makes files that only their owner can read.
    sed "s/^#LADLE_UID=.*/LADLE_UID=$(id -u)/; s/^#LADLE_GID=.*/LADLE_GID=$(id -g)/" .env >.env.new
    mv .env.new .env
  fi
  echo "wrote .env" >&2
fi
# The folder that jobs read, as this user's: Docker would make it root's.
mkdir -p data && chmod 755 data

tokens=docker/secrets/tokens
mkdir -p docker/secrets && chmod 755 docker/secrets
if [ -e "$tokens" ] && grep -q "^$name:" "$tokens"; then
  echo "\`NAME\` must be new, but $tokens has a token for '$name'. \`ladle token\` makes another." >&2
  exit 1
fi
token=$(random_hex 32)
printf '%s:%s\n' "$name" "$(printf %s "$token" | hash_of_stdin)" >>"$tokens"
# Read by the container's own user; there are only hashes in it.
chmod 644 "$tokens"

echo "the token of '$name', which is shown only now:" >&2
echo "$token"
