"""What the execute side must know to start a job: plain bytes and numbers. Shipped."""

from __future__ import annotations

from remoteio.frames import pack_fields, unpack_fields


class JobSpec:
    """One job. `limits` holds (resource, soft, hard); `tty` is empty or the terminal's settings."""

    __slots__ = ("argv", "cwd", "env", "gid", "groups", "hostname", "limits", "scratch", "stdio", "tty", "uid", "umask")

    def __init__(
        self,
        argv: list[bytes],
        env: list[bytes],
        cwd: bytes,
        uid: int,
        gid: int,
        groups: list[int],
        umask: int,
        hostname: bytes,
        limits: list[tuple[int, int, int]],
        scratch: list[bytes],
        stdio: list[int],
        tty: list[int],
    ) -> None:
        """`env`: NAME=VALUE each; `stdio`: which of 0, 1, 2 are pipes (the others are closed, or with a terminal
        the terminal); `tty`: see ``terminal_state.read``, empty: no terminal."""
        self.argv, self.env, self.cwd, self.uid, self.gid, self.groups = argv, env, cwd, uid, gid, groups
        self.umask, self.hostname, self.limits, self.scratch, self.stdio, self.tty = (
            umask, hostname, limits, scratch, stdio, tty,
        )  # fmt: skip

    def pack(self) -> bytes:
        """The payload of a START frame."""
        return pack_fields(
            {
                "argv": self.argv,
                "env": self.env,
                "cwd": [self.cwd],
                "ids": _texts([self.uid, self.gid, *self.groups]),
                "umask": _texts([self.umask]),
                "hostname": [self.hostname],
                "limits": _texts([n for limit in self.limits for n in limit]),
                "scratch": self.scratch,
                "stdio": _texts(self.stdio),
                "tty": _texts(self.tty),
            }
        )

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> JobSpec:
        """The inverse of ``pack``. Raises FrameError, KeyError, ValueError on what pack never makes."""
        f = unpack_fields(payload)
        ids, limits = _numbers(f["ids"]), _numbers(f["limits"])
        return cls(
            argv=f["argv"],
            env=f["env"],
            cwd=f["cwd"][0],
            uid=ids[0],
            gid=ids[1],
            groups=ids[2:],
            umask=_numbers(f["umask"])[0],
            hostname=f["hostname"][0],
            limits=[(limits[k], limits[k + 1], limits[k + 2]) for k in range(0, len(limits), 3)],
            scratch=f["scratch"],
            stdio=_numbers(f["stdio"]),
            tty=_numbers(f["tty"]),
        )


def _texts(numbers: list[int]) -> list[bytes]:
    return [b"%d" % n for n in numbers]


def _numbers(texts: list[bytes]) -> list[int]:
    return [int(t) for t in texts]
