#!/bin/sh
# Make what `docker compose up` needs and git must not hold: .env, an access token, Redis' certificate and passwords.
#
#     docker/init.sh [NAME]                  for one machine
#     docker/init.sh --head ADDRESS [NAME]   for the machine with Redis and the API, which others reach at ADDRESS
#     docker/init.sh --worker ADDRESS        for every machine that computes; ADDRESS is that of the head
#
# NAME is the token's, "me" if there is none yet. Run it again with another name for another person. The token is
# printed once: only its hash is kept.
#
# What is there stays, and what is missing is made. So run it again after an upgrade, and to replace a password or the
# certificate after removing its file. docs/deploy.md, "Keys and passwords", has the steps.
set -eu
cd "$(dirname "$0")/.."
umask 077

keys=docker/keys
curve='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1'
tokens=docker/secrets/tokens
say() { echo "$*" >&2; }
refuse() {
  say "$*"
  exit 2
}

role=one address='' name=''
case ${1:-} in
--head | --worker)
  role=${1#--} address=${2:-}
  case $address in
  '' | -* | *[!A-Za-z0-9.-]*) refuse "\`ADDRESS\` must be a host name or an IPv4 address, but is '$address'." ;;
  esac
  shift 2
  ;;
esac
[ $# -le 1 ] || refuse "There must be one \`NAME\` at most, but there are '$*'."
if [ $# = 1 ]; then
  name=$1
  case $name in
  -* | *[!a-z0-9-]* | '') wrong=yes ;;
  *) [ ${#name} -le 64 ] && wrong='' || wrong=yes ;;
  esac
  [ -z "$wrong" ] ||
    refuse "\`NAME\` must be made of a-z, 0-9 and -, not begin with -, and have at most 64 letters, but is '$name'."
  [ $role != worker ] || refuse "A token is made on the head, so \`--worker\` takes no \`NAME\`, but there is '$name'."
fi

# openssl tells of every step. Its words are of interest where it fails.
quietly() { words=$("$@" 2>&1) || refuse "\`$1 $2\` failed: $words"; }
sha256_of_stdin() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}
random_hex() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

# --- .env ---
# set_variable NAME VALUE: in the place of the line that names it, or at the end.
set_variable() {
  awk -v name="$1" -v value="$2" '
    !done && ($0 ~ "^#?" name "=") { print name "=" value; done = 1; next }
    { print }
    END { if (!done) print name "=" value }' .env >.env.new
  mv .env.new .env
}
is_set() { grep -q "^$1=." .env; }

make_env() {
  if [ ! -e .env ]; then
    cp .env.example .env
    if [ "$(id -u)" != 0 ]; then
      # The containers may read what this user may: safetensors makes files that only their owner can read.
      set_variable LADLE_UID "$(id -u)"
      set_variable LADLE_GID "$(id -g)"
    fi
    say "wrote .env"
  elif grep -q '^LADLE_REDIS_PASSWORD=' .env; then
    # Before Redis had users. Nothing else knows that password, and the new ones are in files.
    sed '/^LADLE_REDIS_PASSWORD=/d' .env >.env.new
    mv .env.new .env
    say "removed LADLE_REDIS_PASSWORD from .env: the passwords are now files in $keys. Jobs and results stay."
  fi
  is_set LADLE_KEYS || set_variable LADLE_KEYS ./$keys
  [ $role = one ] && return
  set_variable LADLE_HEAD "$address"
  case $role in
  head) is_set COMPOSE_FILE || set_variable COMPOSE_FILE docker-compose.yml:docker-compose.head.yml ;;
  worker) is_set COMPOSE_FILE || set_variable COMPOSE_FILE docker-compose.worker.yml ;;
  esac
  is_set LADLE_RESULTS || say "Set LADLE_RESULTS in .env to a folder that all machines share."
}

# --- Redis' certificate and passwords ---
# A folder for each container, with what it needs and nothing else. Others on this machine cannot enter the folder above
# them. The files in them can be read by whichever user the container has.
make_folders() {
  mkdir -p $keys $keys/redis $keys/service $keys/worker
  chmod 700 $keys
  chmod 755 $keys/redis $keys/service $keys/worker
}

make_authority() {
  if [ ! -e $keys/ca.key ]; then
    # shellcheck disable=SC2086 # the options of a curve
    quietly openssl req -x509 $curve -nodes -sha256 -days 3650 -subj "/CN=Ladle's authority for Redis" \
      -addext keyUsage=critical,keyCertSign,cRLSign -keyout $keys/ca.key -out $keys/ca.pem
    rm -f $keys/redis/redis.pem
    say "made an authority of its own for Redis' certificate"
  fi
  for reader in redis service worker; do
    cp $keys/ca.pem $keys/$reader/ca.pem
  done
}

# names_of ADDRESS: what the certificate is for.
names_of() {
  case $1 in
  '') echo "DNS:redis,DNS:localhost" ;;
  *[!0-9.]*) echo "DNS:redis,DNS:localhost,DNS:$1" ;;
  *) echo "DNS:redis,DNS:localhost,IP:$1" ;;
  esac
}

make_certificate() {
  names=$(names_of "$(sed -n 's/^LADLE_HEAD=//p' .env)")
  if [ -e $keys/redis/redis.pem ] && [ "$(cat $keys/names 2>/dev/null)" = "$names" ]; then return; fi
  # shellcheck disable=SC2086
  quietly openssl req $curve -nodes -sha256 -subj "/CN=redis" \
    -keyout $keys/redis/redis.key -out $keys/request
  cat >$keys/extensions <<EXTENSIONS
subjectAltName=$names
basicConstraints=critical,CA:FALSE
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
EXTENSIONS
  quietly openssl x509 -req -sha256 -days 3650 -in $keys/request -extfile $keys/extensions \
    -CA $keys/ca.pem -CAkey $keys/ca.key -CAcreateserial -out $keys/redis/redis.pem
  rm $keys/request $keys/extensions
  echo "$names" >$keys/names
  say "made Redis' certificate, for $names"
}

# make_password FILE: prints its hash, as Redis' list of users has it.
make_password() {
  [ -s "$1" ] || random_hex 24 >"$1"
  tr -d '\n' <"$1" | sha256_of_stdin
}

make_users() {
  operator=$(make_password $keys/redis/operator-password)
  service=$(make_password $keys/service/redis-password)
  worker=$(make_password $keys/worker/redis-password)
  awk '
    /^#/ || /^$/ { next }
    /^ / { line = line $0; next }
    { if (line != "") print line; line = $0 }
    END { print line }' docker/redis-users.acl |
    sed "s/#OPERATOR/#$operator/; s/#SERVICE/#$service/; s/#WORKER/#$worker/" >$keys/users.new
  # Into the file that is there: its folder may be mounted, and Redis reads it again on `ACL LOAD`.
  cat $keys/users.new >$keys/redis/users.acl
  rm $keys/users.new
}

make_keys() {
  command -v openssl >/dev/null || refuse "The program openssl must be installed, which makes Redis' certificate."
  make_folders
  make_authority
  make_certificate
  make_users
  chmod 644 $keys/redis/* $keys/service/* $keys/worker/*
}

need_copied_keys() {
  mkdir -p $keys && chmod 700 $keys
  for file in ca.pem redis-password; do
    [ -s $keys/worker/$file ] || refuse "$keys/worker/$file must be copied from the head, but is not there:" \
      "scp -r $address:.../$keys/worker $keys/"
  done
  chmod 755 $keys/worker
  chmod 644 $keys/worker/*
}

# --- people ---
make_token() {
  mkdir -p docker/secrets && chmod 755 docker/secrets
  if [ -z "$name" ]; then
    [ ! -s $tokens ] || return 0
    name=me
  fi
  if [ -e $tokens ] && grep -q "^$name:" $tokens; then
    say "\`NAME\` must be new, but $tokens has a token for '$name'. \`ladle token\` makes another."
    exit 1
  fi
  token=$(random_hex 32)
  printf '%s:%s\n' "$name" "$(printf %s "$token" | sha256_of_stdin)" >>$tokens
  # Read by the container's own user; there are only hashes in it.
  chmod 644 $tokens
  say "the token of '$name', which is shown only now:"
  echo "$token"
}

make_env
# The folder that jobs read, as this user's: Docker would make it root's.
mkdir -p data && chmod 755 data
if [ $role = worker ]; then
  need_copied_keys
else
  make_keys
  make_token
fi
say "ready: docker compose up --build --wait"
