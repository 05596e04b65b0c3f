"""The limits of a batch and of the waiting for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..bundle.evidence import LatencyCurve
from ..bundle.specs import Layout
from ..runtime.batching import PACK_MULTIPLE
from .ticket import Priority

LEAST_PACKED, MOST_PACKED = 64, 512
"""Bounds of the budget of a packed call: below, fixed costs rule whatever a curve says; above, the mask's square."""
NEAR_BEST = 1.03
"""A call that takes this much more for each token than the best one is as good as that, and over sooner."""


@dataclass(frozen=True)
class Policy:
    """How rows are put together, and who goes first.

    Attributes:
        max_tokens: budget of a call in elements (padded: rows x longest; packed: all tokens), which bounds the memory
            of a call; a single longer row goes alone.
        max_rows: most rows of a batch.
        max_seconds: a batch grows no further once its forecast passes this, so that the rows behind it don't wait long;
            on a machine where the shortest call takes most of it, twice that call.
        linger: longest wait for company, seconds; the policy waits less where company saves less.
        patience: after this many seconds a row goes before all later ones of its priority, whatever their deadlines.
        head_start: a row of high priority goes before normal ones that came up to so many seconds earlier, and never
            before older ones: so nobody starves.
    """

    max_tokens: int = 4096
    max_rows: int = 32
    max_seconds: float = 0.030
    linger: float = 0.0015
    patience: float = 0.100
    head_start: float = 1.0

    def rank(self, arrived: float, deadline: float, priority: Priority) -> float:
        """Place in the order of service: the least is served first."""
        due = min(deadline, arrived + self.patience)
        return due if priority is Priority.HIGH else due + self.head_start


def for_layout(policy: Policy, layout: Layout, curve: LatencyCurve, correction: float = 1.0) -> Policy:
    """The policy with the token budget that an engine's rows and curve ask for.

    Padded calls grow as long as that is forecast to save time, so that their budget only bounds the memory. Packed
    calls are filled up to the budget.

    Args:
        policy: as wished.
        layout: of the engine's rows.
        curve: the engine's.
        correction: measured over fitted time on this machine.
    """
    if layout is Layout.PADDED:
        return policy
    return replace(policy, max_tokens=min(policy.max_tokens, packed_budget(curve, policy.max_seconds / correction)))


def packed_budget(curve: LatencyCurve, max_seconds: float) -> int:
    """The smallest call that costs nearly as little for each token as the best one, of those of ``max_seconds``.

    Where the least call takes more than half of that, of those of twice its time: calls that are slow by their fixed
    cost would only lose more by being small.

    Returns:
        Tokens, a multiple of ``PACK_MULTIPLE`` between ``LEAST_PACKED`` and ``MOST_PACKED``.
    """
    sizes = [
        size
        for size in range(LEAST_PACKED, MOST_PACKED + 1, PACK_MULTIPLE)
        if curve.seconds(size, 1) <= max(max_seconds, 2 * curve.seconds(LEAST_PACKED, 1))
    ]
    best = min(curve.seconds(size, 1) / size for size in sizes)
    return next(size for size in sizes if curve.seconds(size, 1) / size <= NEAR_BEST * best)
