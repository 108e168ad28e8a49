"""What dumping, restoring and the owner's guard each need of a job that can be checkpointed. Shipped."""

from __future__ import annotations

import os

from remoteio.execute.relay import Relay
from remoteio.wire import frames
from remoteio.wire.link import LinkClosed
from remoteio.wire.session_link import SessionLink
from shim.execute.agent.checkpoint_streams import CheckpointStreams
from shim.execute.agent.criu_here import Means
from shim.execute.agent.image_channel import ImageChannel
from shim.execute.agent.job_tree import JobTree
from shim.execute.init.sandbox import Sandbox
from shim.wire import job_messages, lease
from shim.wire.job_spec import CheckpointSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class CheckpointParts:
    """Holds the parts of one job, each of which has its own state and says by which threads it is entered.

    link        to the submit side
    sandbox     the job's surroundings
    relay       between the kernel and the link
    tree        its processes
    streams     its pipes and terminal
    channel     to the store at home
    means       a criu, or why there is none
    checkpoint  what home says of it
    cpus        those that home asked for (scheduling.own); none: any
    log         the path at which the log of a criu that failed is kept
    """

    __slots__ = ("channel", "checkpoint", "cpus", "link", "log", "means", "relay", "sandbox", "streams", "tree")

    def __init__(
        self,
        link: SessionLink,
        sandbox: Sandbox,
        relay: Relay,
        tree: JobTree,
        streams: CheckpointStreams,
        means: Means,
        checkpoint: CheckpointSpec,
        log: str,
        cpus: list[int],
    ) -> None:
        self.link, self.sandbox, self.relay, self.tree, self.streams = link, sandbox, relay, tree, streams
        self.channel, self.means, self.checkpoint, self.log = ImageChannel(link), means, checkpoint, log
        self.cpus = cpus

    def leave(self) -> NoReturn:
        """End this process once home has heard all that was said, if it is there: nothing of the job is left here."""
        try:
            self.link.settled(lease.AGENT)
        except LinkClosed:
            pass  # home has heard enough, and hung up
        self.sandbox.shut_door()
        self.link.bye()
        os._exit(0)

    def news(self, what: str, **more: object) -> None:
        """Tell home what has become of the job."""
        self.link.send(frames.NEWS, job_messages.news(what, **more))
