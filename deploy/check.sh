#!/bin/sh
# What `docker build` would install and start, without Docker: run it after a change of dependencies.
#
#   sh deploy/check.sh [retrieval ranking orchestrator training]
#
# For each image: a fresh virtual environment, made of nothing but what its Dockerfile copies and
# installs; its entry point answers --help; what serves has neither TensorFlow nor Ray; and no library
# is needed that neither the base image nor the Dockerfile has. tests/deploy tries the same without pip
# or network, and serves a page.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3.11}
export PIP_DISABLE_PIP_VERSION_CHECK=1 TF_USE_LEGACY_KERAS=1

# Of glibc, libgcc, libstdc++ and zlib, which every image of Python has; TensorFlow's own, which scann
# brings a plug-in for and does not load.
IN_SLIM='lib(c|m|dl|rt|pthread|util|gcc_s|stdc\+\+|z)\.so|ld-linux|libtensorflow_framework'

check() {
  image=$1
  dockerfile=deploy/docker/$image.Dockerfile
  extras=$(sed -n "s/.*'\.\[\([a-z,]*\)\]'.*/\1/p" "$dockerfile")
  module=$(sed -n 's/^ENTRYPOINT.*"\([a-z_]*\)"\]$/\1/p' "$dockerfile")
  mkdir "$tmp/$image" "$tmp/$image/src"
  sed -n 's/^COPY \([^-].*\) [^ ]*$/\1/p' "$dockerfile" | tr ' ' '\n' | while read -r name; do
    cp -R "$name" "$tmp/$image/src/"
  done
  "$PYTHON" -m venv "$tmp/$image/venv"
  python=$tmp/$image/venv/bin/python
  "$python" -m pip install --quiet --no-cache-dir --constraint constraints.txt \
    "$tmp/$image/src[$extras]" fsspec
  cd "$tmp"
  "$python" -P -m "$module" --help > /dev/null
  if [ "$image" != training ]; then
    "$python" -c 'import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ["tensorflow", "ray"])))'
  fi
  missing=$(find "$image/venv" -name '*.so*' -type f -exec ldd {} + 2> /dev/null |
    sed -n 's/^\t\([^ ]*\) => \(not found\|\/\(usr\/\)\?lib.*\)$/\1/p' | sort -u |
    grep -Ev "$IN_SLIM" | tr '\n' ' ') || true
  size=$(du -sm "$image/venv" | cut -f1)
  cd "$OLDPWD"
  for library in $missing; do
    grep -q "install.* ${library%.so*}" "$dockerfile" || {
      echo "error: $image needs $library" >&2
      exit 1
    }
  done
  echo "$image: [$extras] installs, ${size} MB; libraries beyond a slim image: ${missing:-none}"
  rm -rf "${tmp:?}/$image"
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/sl.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
for image in ${*:-retrieval ranking orchestrator training}; do check "$image"; done
