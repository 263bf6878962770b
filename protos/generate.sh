#!/bin/sh
# Regenerates shortlist/v1 from the .proto files. Needs grpcio-tools and mypy-protobuf (the dev extra).
set -eu
cd "$(dirname "$0")/.."
out="${1:-.}"
python="${PYTHON:-python}"
bin=$(dirname "$("$python" -c 'import sys; print(sys.executable)')")
"$python" -m grpc_tools.protoc -Iprotos --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" \
  --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" protos/shortlist/v1/*.proto
