"""Which waiting rows go into the next engine call, and who may join them. Pure policy: the clock is an argument; no
model, no threads.

Each row has a rank: the earlier of its deadline and its arrival plus the policy's patience; a row of normal priority
stands a head start behind. The row of the least rank leads the next batch, so nobody starves: only rows that come
within a row's patience (of high priority: within the head start more) can ever go before it. Who goes along with the
leader is up to the row layout (``grouping``).

A row that can't be answered in time any more is dropped instead of run, if there is another one that can. While more
waits than the next call holds, that is so once a full call would end too late: a call cut short for one row would cost
all the others their time. Where nothing can be met and no lane runs, one row is tried all the same, since only trying
mends a stale forecast, and none is dropped for it.

An engine that has just answered many clients would take the first of them back alone while the others are on their
way. So a batch lingers, but only where company is likely: right after a batch of more than twice as many rows. Any
other row that finds an engine idle starts at once, whatever the other engines do: rows that come while all are busy
gather by themselves. What finds several lanes idle is shared out among them, or runs on the wide engine where that is
forecast to be clearly faster; while it does, the lanes wait.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, TypeVar

from ..bundle.specs import Layout
from ..runtime.batching import call_size
from .agenda import Agenda
from .forecast import Forecast
from .grouping import Grouping, grouping_for
from .leading import second_best
from .outlook import Outlook
from .policy import Policy
from .ticket import Batch, Priority, Ticket

T = TypeVar("T")

CLEARLY = 0.8
"""What must be left of a call's time before it is worth another way of running it."""
LENIENCY = 0.12
"""Share of its forecast wait that a newcomer is spared at the door: what waits now may yet be withdrawn or dropped, and
the forecast err; whom it was spared in vain is dropped unrun."""
WASTE_WEIGHT, MOST_WASTE = 0.05, 3.0
"""Share of the newest call in the waste (about forty calls forget another mix of lengths), and what it may say."""


class Scheduler(Generic[T]):
    """The waiting rows of one model, the calls under way, and the choice of the next one.

    Args:
        policy: limits.
        forecast: of one lane; told of every call that a lane has finished.
        layout: how the engine wants its rows.
        lanes: engines that take batches side by side.
        wide: forecast of the same engine on all the cores; None where there is none.
    """

    def __init__(
        self,
        policy: Policy,
        forecast: Forecast,
        *,
        layout: Layout = Layout.PADDED,
        lanes: int = 1,
        wide: Forecast | None = None,
    ) -> None:
        self.policy = policy
        self.forecast = forecast
        self.tokens = 0
        self.running: list[Batch[T]] = []
        self._layout = layout
        self._lanes = lanes
        self._wide = wide
        self._agenda: Agenda[T] = Agenda()
        self._grouping: Grouping[T] = grouping_for(layout, policy, forecast)
        self._rows = 0
        self._numbers = 0
        self._last_rows = 0
        self._last_finish = -math.inf
        self._wake: float | None = None
        self._dropped: list[Ticket[T]] = []
        self._waste = 1.0

    def __len__(self) -> int:
        """Rows that wait."""
        return self._rows

    def retune(self, policy: Policy) -> None:
        """Take another policy, or the forecast's new curve, before any row waits."""
        self.policy = policy
        self._grouping = grouping_for(self._layout, policy, self.forecast)

    def in_order(self) -> list[Ticket[T]]:
        """The waiting rows in the order of service."""
        return list(self._agenda)

    def add(self, ticket: Ticket[T]) -> None:
        """Let a row wait."""
        self._numbers += 1
        ticket.number = self._numbers
        ticket.rank = self.policy.rank(ticket.arrived, ticket.deadline, ticket.priority)
        ticket.work = self._grouping.share(ticket.length)
        self._agenda.add(ticket)
        self.tokens += ticket.length
        self._rows += 1

    def discard(self, ticket: Ticket[T]) -> None:
        """Take a row away unrun; one that doesn't wait is left as it is."""
        if ticket.number >= 0:
            self._agenda.remove(ticket)
            ticket.number = -1
            self.tokens -= ticket.length
            self._rows -= 1

    def next_batch(self, now: float) -> Batch[T] | None:
        """What an idle lane is to run now, which waits no longer; None where nothing waits or a wait is worth it.

        Rows whose deadline has passed are left out: their owners are answered elsewhere. Those that can't be met any
        more come out of :meth:`take_dropped`. Who runs the batch calls :meth:`finished` afterwards.
        """
        self._wake = None
        if not self._rows or (self._wide and any(batch.wide for batch in self.running)):
            return None
        leader = self._leader(now)
        if leader is None:
            return None
        start = self._start_time(leader)
        if now < start:
            self._wake = start
            return None
        batch = self._batch_of(leader, now)
        for ticket in batch.tickets:
            self.discard(ticket)
        if self._rows and not batch.wide:
            self._learn_waste(batch)
        self.running.append(batch)
        return batch

    def take_dropped(self) -> list[Ticket[T]]:
        """The rows dropped since the last call because they can't be answered in time; they wait no longer."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def wake_at(self) -> float | None:
        """After a :meth:`next_batch` that gave None: when to ask again if nothing happens before; None for never."""
        return self._wake

    def finished(self, batch: Batch[T], seconds: float | None, now: float) -> None:
        """An engine has run ``batch`` in ``seconds`` (None where it failed, which says nothing of its speed)."""
        self.running.remove(batch)
        self._last_rows = len(batch)
        self._last_finish = now
        if seconds is not None:
            forecast = self._wide if batch.wide and self._wide else self.forecast
            forecast.observe(batch.elements, batch.rows, seconds)

    def stuck(self, now: float, allowed: float) -> bool:
        """Whether all calls under way are so many seconds past their forecast, and what waits or comes gets no lane."""
        nobody_free = len(self.running) >= self._lanes or self._rows > 0
        return bool(self.running) and nobody_free and max(batch.end for batch in self.running) + allowed < now

    def drain_seconds(self, now: float) -> float:
        """Forecast of the time until all that runs and waits is done."""
        work = self._agenda.work * self._pace()
        return self._outlook(now).end_of(work, 0.0, work) - now

    def refusal(self, tickets: Sequence[Ticket[T]], now: float) -> float | None:
        """Whether rows of one owner may not join: their deadline, or for their sake an admitted row's, can't be met.

        Only what is served before the newcomers counts against them, and normal rows are no reason to send high ones
        away. With an idle lane and nothing that waits they may join whatever the forecast says.

        Returns:
            Seconds of the wait that is too long; None where they may join.
        """
        if not self._rows and len(self.running) < self._lanes:
            return None
        first, pace, outlook = tickets[0], self._pace(), self._outlook(now)
        works = [self._grouping.share(ticket.length) * pace for ticket in tickets]
        own, last, total = sum(works), works[-1], self._agenda.work * pace
        rank = self.policy.rank(first.arrived, first.deadline, first.priority)
        ahead = self._agenda.ahead(rank) * pace
        lenient = 1 - LENIENCY
        wait = outlook.end_of(ahead + own - last, last, total + own) - now
        if len(works) > 1:  # the last row may find another lane, and be answered before the first
            wait = max(wait, outlook.end_of(ahead, works[0], total + own) - now)
        if wait * lenient > first.deadline - now:
            return wait
        all_done = outlook.end_of(total + own, 0.0, total + own) - now
        last_rank = now + self.policy.patience if first.priority is Priority.HIGH else math.inf
        for work, one, earliest in self._agenda.behind(rank, last_rank):
            left = (earliest - now) / lenient
            if left < all_done:
                with_them = outlook.end_of(ahead + own, one * pace, total + own) - now
                if outlook.end_of(ahead, one * pace, total) - now <= left < with_them:
                    return with_them
            ahead += work * pace
        return None

    def hopeless(self, length: int, deadline: float, now: float) -> tuple[float, float] | None:
        """Whether no request of normal priority whose first row has so many tokens, or more, may join.

        It looks at what is ahead alone, so that it can be asked before anything of a request is known but its deadline:
        whoever is sent away by it would be by :meth:`refusal` too.

        Args:
            length: tokens that the first row has at least.
            deadline: of the request.
            now: when it would join.

        Returns:
            Seconds of the wait that is too long, and until all that runs and waits is done; None where :meth:`refusal`
            is to say.
        """
        if not self._rows and len(self.running) < self._lanes:
            return None
        pace, left = self._pace(), deadline - now
        own, total = self._grouping.share(length) * pace, self._agenda.work * pace
        under_way = max([batch.end for batch in self.running], default=now) - now
        if max(under_way, 0.0) + total + own + self._full() <= left:
            return None  # one lane alone would do it: no closer look is needed
        outlook = self._outlook(now)
        ahead = self._agenda.ahead(self.policy.rank(now, deadline, Priority.NORMAL)) * pace
        wait = outlook.end_of(ahead, own, total + own) - now
        if wait * (1 - LENIENCY) <= left:
            return None
        return wait, outlook.end_of(total, 0.0, total) - now

    # -- the next batch -----------------------------------------------------------------------------------------------

    def _leader(self, now: float) -> Ticket[T] | None:
        """The first row that can be met; those before it can't, or only by a call cut short, and are dropped."""
        full, margin = self._needed(), self.forecast.margin
        leader, expired, passed, times = None, [], [], []
        for ticket in self._agenda:
            left, alone = ticket.deadline - now, self._alone(ticket)
            if left <= 0:
                expired.append(ticket)
            elif left >= margin * max(full, alone):
                leader = ticket
                break
            else:
                passed.append(ticket)
                times.append((left, alone))
        if leader is None and passed:
            place, met = second_best(times, margin * full, margin)
            if place is not None and (met or not self.running or times[place][0] >= times[place][1]):
                leader = passed[place]
            passed = passed[:place] if met else []
        for ticket in expired + passed:
            self.discard(ticket)
        self._dropped += passed
        return leader

    def _needed(self) -> float:
        """Seconds of the next call, whoever leads it: of a full one where more than that waits, else 0."""
        full = self._full() if self._rows > 1 else math.inf
        return full if self._agenda.work * self._pace() > full * self._lanes else 0.0

    def _alone(self, ticket: Ticket[T]) -> float:
        seconds = self._grouping.seconds(ticket.length)
        if self._wide is None or self.running:
            return seconds
        return min(seconds, self._wide.seconds(*call_size((ticket.length,), self._layout)))

    def _start_time(self, leader: Ticket[T]) -> float:
        """When the waiting rows may start: -inf for at once."""
        policy = self.policy
        if 2 * self._rows >= self._last_rows or self._rows >= policy.max_rows or self.tokens >= policy.max_tokens:
            return -math.inf
        once = self._grouping.seconds(leader.length)
        twice = self.forecast.seconds(*call_size((leader.length,) * 2, self._layout))
        # A companion saves the engine one call's fixed cost; waiting longer than that would lose more than it wins.
        linger = min(policy.linger, 2 * once - twice)
        return min(self._last_finish + linger, leader.deadline - self.forecast.margin * once)

    def _batch_of(self, leader: Ticket[T], now: float) -> Batch[T]:
        idle = self._lanes - len(self.running)
        if self._wide and not self.running:
            batch = self._grouped(leader, now, self.policy.max_tokens, self._wide)
            # The lanes could share it out, but for its longest row.
            share = max(math.ceil(self.tokens / idle), max(ticket.length for ticket in batch.tickets))
            if len(batch) == self._rows and batch.seconds < CLEARLY * self._call_seconds(share):
                batch.wide = True
                return batch
        return self._grouped(leader, now, self._budget(leader, idle), self.forecast)

    def _grouped(self, leader: Ticket[T], now: float, budget: int, forecast: Forecast) -> Batch[T]:
        tickets = self._grouping.company(leader, self._agenda, now, budget) if self._rows > 1 else [leader]
        elements, rows = call_size([ticket.length for ticket in tickets], self._layout)
        seconds = forecast.seconds(elements, rows)
        return Batch(tickets, elements, rows, seconds, now + seconds)

    def _budget(self, leader: Ticket[T], idle: int) -> int:
        """Elements of the next call: its share where several lanes are idle and that saves time, else the most."""
        most = self.policy.max_tokens
        if idle < 2 or self._rows < 2 or self.tokens >= most * idle:
            return most
        share = max(math.ceil(self.tokens / idle), leader.length)
        return share if self._call_seconds(share) < CLEARLY * self._call_seconds(min(self.tokens, most)) else most

    def _call_seconds(self, tokens: int) -> float:
        """Forecast of a lane's call of so many tokens in rows of the mean length of those that wait."""
        rows = max(1, round(tokens * self._rows / self.tokens))
        return self.forecast.seconds(*call_size([math.ceil(tokens / rows)] * rows, self._layout))

    def _learn_waste(self, batch: Batch[T]) -> None:
        """Calls are never quite full, and padded: how much longer they take than the shares of their rows say."""
        shares = sum([ticket.work for ticket in batch.tickets]) * self.forecast.correction
        self._waste += WASTE_WEIGHT * (min(batch.seconds / shares, MOST_WASTE) - self._waste)

    # -- the forecast of a wait ---------------------------------------------------------------------------------------

    def _pace(self) -> float:
        """Seconds that an engine needs for one second of waiting rows' work."""
        return self.forecast.correction * self._waste

    def _full(self) -> float:
        """Forecast of a full call of such rows as wait."""
        mean = max(1, self.tokens // max(self._rows, 1))
        return self._grouping.full(mean)[1] * self.forecast.correction

    def _outlook(self, now: float) -> Outlook:
        free = sorted(max(batch.end, now) for batch in self.running)
        if self._wide and any(batch.wide for batch in self.running):
            free = [free[-1]] * self._lanes
        full = self._full()
        least = min(self._grouping.shortest * self.forecast.correction, full)
        return Outlook([now] * (self._lanes - len(free)) + free, full, least)
