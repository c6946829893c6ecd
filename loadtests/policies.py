"""Ways to evict, as a comparison runs them: arrays of what there is to know of each picture, and a rule."""

from __future__ import annotations

import numpy as np

from cache_store.eviction import HitRates, Uses
from loadtests.traces import Floats, Integers, Trace

NEVER = 1 << 40


def next_uses(asked: Integers) -> Integers:
    """[requests]: when the same picture is asked for again, or NEVER."""
    order = np.argsort(asked, kind="stable")
    again = np.full(len(asked), NEVER)
    same = asked[order[1:]] == asked[order[:-1]]
    again[order[:-1][same]] = order[1:][same]
    return again


class Policy:
    """What a policy may know of each picture. Who is worth least leaves; this one is FIFO."""

    def __init__(self, trace: Trace) -> None:
        num_pictures = len(trace.num_bytes)
        self.density = trace.seconds_saved / trace.num_bytes
        self.popularity = trace.popularity
        self.again = next_uses(trace.asked)
        self.count, self.last, self.since = (np.zeros(num_pictures, dtype=np.int64) for _ in range(3))

    def use(self, picture: int, now: int, *, hit: bool) -> None:
        """A picture is asked for, and held from now on."""
        self.count[picture] += 1
        self.last[picture] = now
        if not hit:
            self.since[picture] = now

    def leave(self, picture: int, now: int) -> None:
        """A picture is dropped."""

    def worth(self, held: Integers, now: int) -> Floats | Integers:  # noqa: ARG002  # others look at the clock
        """Of pictures [N], at the time of request `now`."""
        return self.since[held]


class Lru(Policy):
    """The least recently used leaves."""

    def worth(self, held: Integers, now: int) -> Floats | Integers:  # noqa: ARG002  # as above
        """Its last use."""
        return self.last[held]


class Lfu(Policy):
    """The least frequently used leaves, of equals the least recently used."""

    def worth(self, held: Integers, now: int) -> Floats | Integers:
        """Its uses, ever."""
        return self.count[held] + self.last[held] / (now + 1)


class Gdsf(Policy):
    """Greedy dual size frequency (Cherkasova, "Improving WWW Proxies Performance with" it)."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.priority = np.zeros(len(self.count))
        self.inflation = 0.0

    def use(self, picture: int, now: int, *, hit: bool) -> None:
        """Its priority is set once, and outlived by what is used later."""
        super().use(picture, now, hit=hit)
        self.priority[picture] = self.inflation + self.count[picture] * self.density[picture]

    def leave(self, picture: int, now: int) -> None:  # noqa: ARG002  # others look at the clock
        """Who is used from now on is worth more than who has left."""
        self.inflation = self.priority[picture]

    def worth(self, held: Integers, now: int) -> Floats | Integers:  # noqa: ARG002  # as above
        """Its priority."""
        return self.priority[held]


class Ours(Policy):
    """`cache_store.eviction`, on arrays; a test compares it with `choose`."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.rates = HitRates()

    def use(self, picture: int, now: int, *, hit: bool) -> None:
        """A hit ends a life."""
        if hit:
            self.rates.learn(self.uses(picture), now, hit=True)
        super().use(picture, now, hit=hit)

    def leave(self, picture: int, now: int) -> None:
        """So does leaving."""
        self.rates.learn(self.uses(picture), now, hit=False)

    def worth(self, held: Integers, now: int) -> Floats | Integers:
        """Probability of a hit x seconds saved / bytes."""
        return self.rates.per_second(self.count[held], now - self.last[held]) * self.density[held]

    def uses(self, picture: int) -> Uses:
        """The history of one."""
        return Uses(int(self.count[picture]), float(self.last[picture]))


class OursForgetting(Ours):
    """The same where the history leaves with the rows."""

    def leave(self, picture: int, now: int) -> None:
        """It is a stranger again."""
        super().leave(picture, now)
        self.count[picture] = 0


class Popularity(Policy):
    """Who knows the probabilities of independent requests has nothing to learn."""

    def worth(self, held: Integers, now: int) -> Floats | Integers:  # noqa: ARG002  # as above
        """True probability of a hit x seconds saved / bytes."""
        return self.density[held] * (0 if self.popularity is None else self.popularity[held])


class Belady(Policy):
    """Offline: who is needed last leaves."""

    def worth(self, held: Integers, now: int) -> Floats | Integers:  # noqa: ARG002  # as above
        """Minus its next use."""
        return -self.again[self.last[held]]


class BeladyWorth(Policy):
    """Offline: Belady's rule for unequal pictures, greedily."""

    def worth(self, held: Integers, now: int) -> Floats | Integers:
        """Seconds saved at the next use / (bytes x time until then)."""
        return self.density[held] / (self.again[self.last[held]] - now)


POLICIES: dict[str, type[Policy]] = {
    "fifo": Policy, "lru": Lru, "lfu": Lfu, "gdsf": Gdsf, "ours": Ours, "ours_forgetting": OursForgetting,
    "popularity": Popularity, "belady": Belady, "belady_worth": BeladyWorth,
}  # fmt: skip
