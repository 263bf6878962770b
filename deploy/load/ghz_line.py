"""One line of ghz's JSON report, for `ghz.sh`: latencies of answers that were OK."""

import json
import sys

report = json.load(sys.stdin)
statuses = report["statusCodeDistribution"]
times = sorted(one["latency"] / 1e6 for one in report["details"] if one["status"] == "OK")
p50, p95, p99 = (
    times[min(len(times) - 1, int(len(times) * q))] if times else float("nan")
    for q in (0.50, 0.95, 0.99)
)
others = ", ".join(f"{name} {n}" for name, n in sorted(statuses.items()) if name != "OK")
print(
    f"{sys.argv[1]:>8} {report['rps']:8.1f} {statuses.get('OK', 0):8d} "
    f"{p50:9.1f} {p95:9.1f} {p99:9.1f}  {others}"
)
