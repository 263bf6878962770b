#!/bin/sh
# Cuts off what a Redis or Valkey that was killed in the middle of a write has left at the end of its log.
#
#   sh mend-log.sh CHECK LOG    CHECK: redis-check-aof or valkey-check-aof
#                               LOG: appendonlydir/appendonly.aof.manifest, before Redis 7 appendonly.aof
#
# Run it before each start. A transaction that is not whole was never acknowledged. The server itself would
# leave the beginning of one in the file, where the next ones become part of it, and are lost with the restart
# after this one; so it has to be told `aof-load-truncated no`. Damage that whole transactions follow is
# left to somebody who looks at it.
set -eu
check=$1 log=$2
[ -s "$log" ] || exit 0
report=$("$check" "$log") && exit 0
analyzed=$(printf '%s\n' "$report" | sed -n 's/^AOF analyzed: //p' | tail -n 1)
valid=$(printf '%s\n' "$analyzed" | sed -n 's/.*ok_up_to=\([0-9]*\).*/\1/p')
file=$(printf '%s\n' "$analyzed" | sed -n 's/^filename=\([^,]*\),.*/\1/p')
file=$(dirname "$log")/$(basename "${file:-$log}")
# Whether a whole transaction ends after byte $valid; the x keeps an end that was cut off from looking whole.
whole_ones_follow() {
  { tail -c +$((valid + 1)) "$file" && printf x; } | grep -a -q "^EXEC$(printf '\r')$"
}
if [ -z "$valid" ] || whole_ones_follow; then
  printf '%s\n' "$report" >&2
  echo "error: $file is damaged, and not at its end alone; restore a copy, or see $check --fix" >&2
  exit 1
fi
echo "$file: cutting off a transaction that is not whole, after byte $valid"
yes | "$check" --fix "$log" > /dev/null
