#!/bin/sh
# Pages at rising rates in an open loop: a request is sent when it is due, whether or not others
# have been answered. Prints one line a rate, and keeps ghz's whole report of each in $OUT.
#
#   deploy/load/ghz.sh [HOST:PORT]
#   RATES="50 100 200" SECONDS_EACH=30 OUT=reports deploy/load/ghz.sh 10.0.0.7:7700
set -eu

TARGET=${1:-127.0.0.1:7700}
RATES=${RATES:-"10 20 40 80"}
SECONDS_EACH=${SECONDS_EACH:-15}
CONNECTIONS=${CONNECTIONS:-4}
GHZ=${GHZ:-ghz}
HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$(mktemp -d)}
mkdir -p "$OUT"

command -v "$GHZ" >/dev/null || {
    echo "no ghz: go install github.com/bojand/ghz/cmd/ghz@latest" >&2
    exit 1
}

printf '%8s %8s %8s %9s %9s %9s  %s\n' offered sent ok p50_ms p95_ms p99_ms "other statuses"
for rate in $RATES; do
    report=$OUT/$rate.json
    # --async with as many workers as may be under way: none waits for an answer. A total of
    # requests instead of a duration, which would cut off those that are under way at its end.
    "$GHZ" --config "$HERE/recommend.json" --async --rps "$rate" \
        --concurrency "$CONNECTIONS" --connections "$CONNECTIONS" \
        --total $((rate * SECONDS_EACH)) --format json --output "$report" "$TARGET"
    python3 "$HERE/ghz_line.py" "$rate" <"$report"
done
echo "reports: $OUT" >&2
