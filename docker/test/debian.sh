# shellcheck shell=bash
# Sourced by the scripts beside it: what they need to know about this machine's Debian packages.

# The address of the Debian mirror that this machine's apt is set up with.
debian_mirror() {
  local uri
  # shellcheck disable=SC2016 # $(...) is apt's own format here, not the shell's
  uri=$(apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(CODENAME) $(REPO_URI)' |
    awk '$1 == "Packages" && $2 == "Debian" && $3 !~ /security|updates/ {print $4; exit}')
  if [ -z "$uri" ]; then
    echo "apt knows no Debian mirror: run 'apt-get update' first, on a Debian machine" >&2
    return 1
  fi
  echo "$uri"
}
