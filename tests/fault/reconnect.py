"""Cuts many jobs off one host behind a real sshd, as a router does that starts anew: when is each in touch again?

    python -m tests.fault.reconnect --jobs 100 --seconds 20

Packets are lost both ways, and nobody is told. The host is alpha of a desk of this run's own, and its sshd drops those
who have not logged in as it does by default (MaxStartups). With `--jobs 1` it is what such a cut costs one job.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from tests import apart, desk
from tests.fault.many import Jobs, told


def strict() -> None:
    """Have the host's sshd drop connections as it does by default."""
    desk.run("alpha", ["sed", "-i", "/^MaxStartups/d", "/etc/ssh/sshd_config"])
    desk.run("alpha", ["sh", "-c", "kill -HUP $(pgrep -f '^sshd: .*listener')"])


@click.command()
@click.option("--jobs", type=click.IntRange(1), default=100, show_default=True)
@click.option("--seconds", type=float, default=20.0, show_default=True, help="How long packets are lost.")
@click.option("--times", type=click.IntRange(1), default=1, show_default=True, help="How often, with the same jobs.")
@click.option("--rexec", default=str(Path(sys.executable).with_name("rexec")), show_default=True)
def main(jobs: int, seconds: float, times: int, rexec: str) -> None:
    """Measure after how long jobs that were cut off together are in touch again."""
    with apart.entered() as top:
        desk.up()
        strict()
        many = Jobs(top, rexec, "alpha", jobs)
        try:
            for _ in range(times):
                desk.silence("alpha")
                time.sleep(seconds)
                click.echo(told(many.back(lambda: desk.heal("alpha")), seconds))
            many.end()
        finally:
            many.kill()


if __name__ == "__main__":
    main()
