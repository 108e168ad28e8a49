"""The base of what fails in this package. Shipped. It lies below everything else here, as remoteio.errors does there.

It is no RexecError: checkpoint and remoteio stand apart. So the two are caught side by side where a command ends
(shim/cli/main.py), and nobody between need turn the one into the other.
"""

from __future__ import annotations


class CheckpointError(Exception):
    """Say what cannot be done with a job's image, and why.

    Of a failure that a user can meet (StoreError, BundleError, DumpError, RestartError, CriuError) the text is a
    sentence for the user, with what to do. The others are met within this package, by whoever asked for the bytes
    that are wrong: their text is a clause, which becomes part of such a sentence.
    """
