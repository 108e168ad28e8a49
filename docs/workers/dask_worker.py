"""A Dask worker in a job, and the addresses by which workers, scheduler and client find each other.

`rexec://home:9001` is port 9001 of home, wherever that is asked: a job is led there by its `--forward any:9001`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import anew
from distributed import Worker
from distributed.comm.registry import backends
from distributed.comm.tcp import TCPBackend, TCPConnector


class _Connector(TCPConnector):
    async def connect(self, address: str, deserialize: bool = True, **others: Any) -> Any:
        host, port = anew.home(address.rpartition(":")[2])
        return await super().connect(f"{host}:{port}", deserialize, **others)


class _Backend(TCPBackend):
    _connector_class = _Connector

    def resolve_address(self, address: str) -> str:
        return address

    def get_local_address_for(self, address: str) -> str:
        return address


backends["rexec"] = _Backend()


async def main(scheduler: str, own: str) -> None:
    async with Worker(
        f"rexec://home:{scheduler}",
        host=f"tcp://{os.environ[f'REXEC_FORWARD_{own}']}",
        contact_address=f"rexec://home:{own}",
        nthreads=1,
        dashboard=False,
    ) as worker:
        await worker.finished()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
