"""Room for another connection, where there are too many or no descriptor is left: whoever does nothing makes it."""

from __future__ import annotations

from dataclasses import dataclass

from handler.incoming import Incoming
from handler.outgoing import Idle, Lingering, Outgoing

_AT_ONCE = 16  # connections that are closed to make some
_PATIENCE_S = 1.0  # a connection younger than that is about to send its request


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The connections that no request is worked on for."""

    incoming: Incoming
    idle: Idle
    outgoing: Outgoing
    lingering: Lingering

    def make(self, *, of_descriptors: bool) -> bool:
        """Close some; False where there was none to close.

        Lingering ones go first, for they count as closed, if it is *of_descriptors*, which they have. Then slow
        senders and idle ones, and if there is none of these, one that has only begun to send or that reads slowly.
        """
        dropped = [self._drop_useless(of_descriptors=of_descriptors) for _ in range(_AT_ONCE)]
        return any(dropped) or self._drop_slow()

    def _drop_useless(self, *, of_descriptors: bool) -> bool:
        if of_descriptors and self.lingering:
            self.lingering.drop_oldest()
        elif not self.incoming.drop_oldest(older_than_s=_PATIENCE_S):
            if not self.idle:
                return False
            self.idle.drop_oldest()
        return True

    def _drop_slow(self) -> bool:
        if self.incoming.drop_oldest(older_than_s=0):
            return True
        if not self.outgoing:
            return False
        self.outgoing.drop_oldest()
        return True
