"""An execute host's side of test_placement.py: what a generation really does there."""

from __future__ import annotations


class Agent:
    """One generation on a host, as it really is. `silent`: since when it hears nothing more."""

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
        self.deaf = False  # to orders; it gives signs of life
