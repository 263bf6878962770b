"""When a canary ends by itself, by what its users and the others saw over the same time.

Shares are compared as they are: a canary fails only when more than the bound allows is bad, and so
much more that it is hardly chance. Each has its evidence by a mixture of likelihood ratios
(Robbins 1970), which may be looked at after every request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.guards_clicks import ClickTest
from orchestrator.rollout_figures import Figures
from shortlist.config import CanaryConfig
from shortlist.errors import InvalidRequest

__all__ = ["Guards", "evidence_above", "reason_to_end"]

_CERTAIN = 1000.0  # evidence against chance: a bound is broken by chance once in a thousand
_ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)  # times those allowed, of the shares considered
_TAIL = 0.01  # of the requests that may take longer than the p99


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """The bounds; see `CanaryConfig`."""

    min_requests: int
    max_error_rate_increase: float
    max_degraded_rate_increase: float
    max_p99_ratio: float
    click_rate_alpha: float

    @staticmethod
    def of(config: CanaryConfig) -> Guards:
        return Guards(
            min_requests=config.min_requests,
            max_error_rate_increase=config.max_error_rate_increase,
            max_degraded_rate_increase=config.max_degraded_rate_increase,
            max_p99_ratio=config.max_p99_ratio,
            click_rate_alpha=config.click_rate_alpha,
        )

    def check(self) -> None:
        """Raises `InvalidRequest` by field; NaN is outside everything."""
        if violations := list(self._violations()):
            raise InvalidRequest(violations)

    def _violations(self) -> Iterator[tuple[str, str]]:
        for name, least, most in (
            ("max_error_rate_increase", 0.0, 1.0),
            ("max_degraded_rate_increase", 0.0, 1.0),
            ("max_p99_ratio", 1.0, math.inf),
            ("click_rate_alpha", 0.0, 0.5),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                yield f"guards.{name}", f"must be {least:g} to {most:g}, got {value}"


def reason_to_end(guards: Guards, canary: Figures, others: Figures, clicks: ClickTest) -> str:
    """Why the canary has to end, in a sentence; "" while there is no reason.

    Without others (a canary of everybody) there is nothing to be slower or less clicked than.
    """
    if canary.requests < guards.min_requests:
        return ""
    return next(_reasons(guards, canary, others, clicks), "")


def _reasons(guards: Guards, canary: Figures, others: Figures, clicks: ClickTest) -> Iterator[str]:
    failing = others.failed_share + guards.max_error_rate_increase
    if evidence_above(canary.failed, canary.requests, failing) >= _CERTAIN:
        yield (
            f"error rate {canary.failed_share:.2%} of {canary.requests} requests, "
            f"others {others.failed_share:.2%}"
        )
    degrading = others.degraded_share + guards.max_degraded_rate_increase
    degraded = canary.degraded + canary.fallen_back
    if evidence_above(degraded, canary.requests, degrading) >= _CERTAIN:
        yield (
            f"degradation rate {canary.degraded_share:.2%} of {canary.requests} requests, "
            f"others {others.degraded_share:.2%}"
        )
    if others.durations.total >= guards.min_requests:
        usual_ms = others.durations.quantile(1 - _TAIL)
        slow = canary.durations.above(guards.max_p99_ratio * usual_ms)
        if evidence_above(slow, canary.durations.total, _TAIL) >= _CERTAIN:
            yield (
                f"latency: p99 {canary.durations.quantile(1 - _TAIL):.1f} ms, "
                f"others {usual_ms:.1f} ms"
            )
    alpha = guards.click_rate_alpha
    if alpha and clicks.evidence() >= 1 / alpha:
        yield (
            f"click rate {clicks.rate(canary=True):.4f} over {clicks.pages(canary=True)} pages, "
            f"others {clicks.rate(canary=False):.4f} over {clicks.pages(canary=False)}"
        )


def evidence_above(bad: int, total: int, allowed: float) -> float:
    """How many times likelier `bad` of `total` is with a larger share than `allowed`.

    The mean of the likelihood ratios of a few larger shares, each a martingale that a share of at
    most `allowed` lets rise to x with a chance of at most 1 / x.
    """
    if allowed >= 1 or bad <= allowed * total:
        return 0.0
    allowed = max(allowed, 1e-6)
    logs = [_log_ratio(bad, total, allowed, times) for times in _ODDS]
    most = max(logs)
    return math.exp(min(700.0, most)) * sum(math.exp(one - most) for one in logs) / len(logs)


def _log_ratio(bad: int, total: int, allowed: float, times: float) -> float:
    odds = times * allowed / (1 - allowed)
    larger = odds / (1 + odds)
    return bad * math.log(larger / allowed) + (total - bad) * math.log((1 - larger) / (1 - allowed))
