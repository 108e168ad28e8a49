"""An execute host's side of test_placement.py: what a generation really does there."""

from __future__ import annotations

from shim.submit.job.placement_actions import Order
from shim.submit.job.placement_events import Event
from shim.wire import job_messages


class Agent:
    """One generation on a host, as it really is.

    silent  since when it hears nothing more, and for how long it `stays` then
    away    its link has no stream: what it says is in `unsaid`, what it is told in `unheard`
    """

    def __init__(self, generation: int, image: int, anyway: bool) -> None:
        self.generation, self.image, self.anyway = generation, image, anyway
        self.begun = False
        self.acting = image == 0
        self.ready = False  # restored, and awaiting GO
        self.over = False
        self.dumping: tuple[int, bool] | None = None
        self.committed = False
        self.held = False  # it has said that it stands still
        self.silent: float | None = None
        self.stays = 0.0
        self.away = False
        self.unsaid: list[Event] = []
        self.unheard: list[Order] = []
        self.deaf = False  # to orders; it gives signs of life

    @property
    def told_to_end(self) -> bool:
        """Is it to end as soon as it is in touch again, whatever else it hears?"""
        return any(order.what == job_messages.END for order in self.unheard)
