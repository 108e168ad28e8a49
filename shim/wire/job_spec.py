"""What the execute side must know to start a job: plain bytes and numbers. Shipped."""

from __future__ import annotations

from remoteio.wire.frames import FrameError, pack_fields, unpack_fields
from shim.wire.descriptors import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from shim.wire.forwards import Forward


class JobSpec:
    """One job. `limits` holds (resource, soft, hard); `tty` is empty or the terminal's settings."""

    __slots__ = (
        "argv",
        "checkpoint",
        "cwd",
        "descriptors",
        "env",
        "forwards",
        "gid",
        "groups",
        "home",
        "host",
        "hostname",
        "lease",
        "limits",
        "line",
        "scheduling",
        "scratch",
        "secret",
        "stays",
        "stdio",
        "trip",
        "tty",
        "uid",
        "umask",
    )  # fmt: skip

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
        checkpoint: CheckpointSpec | None = None,
        scheduling: Sequence[int] = (),
        host: bytes = b"",
        descriptors: list[Descriptor] | None = None,
        secret: bytes = b"",
        lease: int = 0,
        home: int = 0,
        trip: int = 0,
        line: int = 0,
        forwards: Sequence[Forward] = (),
        stays: bool = False,
    ) -> None:
        """`env`: NAME=VALUE each; `stdio`: which of 0, 1, 2 are pipes (the others are closed, or with a terminal
        the terminal); `tty`: see ``terminal_state.read``, empty: no terminal; `scheduling`: see ``scheduling.own``,
        empty: the host's own; `host`: what the user calls the host it goes to; `descriptors`: those from 3 on;
        `secret`: of this run, which another stream to its agent has to know, empty: none is let in; `lease`: seconds
        that the agent waits for one; `home`: the process that supervises it, if it is the agent's own parent, 0: it is
        on another machine; `trip`: microseconds of a round trip between the two, 0: not known; `line`: bytes a second
        of a narrow line, 0: not known, or wide; `forwards`: ports that lead to the other; `stays`: another may come."""
        self.argv, self.env, self.cwd, self.uid, self.gid, self.groups = argv, env, cwd, uid, gid, groups
        self.umask, self.hostname, self.limits, self.scratch = umask, hostname, limits, scratch
        self.stdio, self.tty = stdio, tty
        self.scheduling, self.host = list(scheduling), host
        # checkpoint None: the job cannot be checkpointed
        self.checkpoint, self.descriptors, self.forwards = checkpoint, descriptors or [], list(forwards)
        self.secret, self.lease, self.home, self.trip, self.line, self.stays = secret, lease, home, trip, line, stays

    def pack(self) -> bytes:
        """Return the payload of a START frame."""
        return pack_fields(
            {
                "argv": self.argv,
                "env": self.env,
                "cwd": [self.cwd],
                "ids": _texts([self.uid, self.gid, *self.groups]),
                "umask": _texts([self.umask]),
                "hostname": [self.hostname],
                "host": [self.host],
                "limits": _texts([n for limit in self.limits for n in limit]),
                "scheduling": _texts(self.scheduling),
                "scratch": self.scratch,
                "stdio": _texts(self.stdio),
                "tty": _texts(self.tty),
                "descriptors": [each.pack() for each in self.descriptors],
                "trip": _texts([self.trip, self.line]) if self.trip else [],
                **({"forwards": [each.pack() for each in self.forwards]} if self.forwards else {}),
                "session": [self.secret, *_texts([self.lease, self.home])] if self.secret else [],
                **({"stays": []} if self.stays else {}),
                **({} if self.checkpoint is None else self.checkpoint.fields()),
            }
        )

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> JobSpec:
        """Unpack what ``pack`` has made. Raises FrameError on what pack never makes."""
        try:
            return cls._of(unpack_fields(payload))
        except (LookupError, ValueError) as e:
            raise FrameError("the job's description is of another version of rexec (%s)" % e) from e

    @classmethod
    def _of(cls, f: dict[str, list[bytes]]) -> JobSpec:
        ids, limits = _numbers(f["ids"]), _numbers(f["limits"])
        trip, line, *_ = (*_numbers(f.get("trip", [])), 0, 0)  # an older version's record has no line
        secret, lease, home = f.get("session") or (b"", b"0", b"0")  # a record has none
        return cls(
            argv=f["argv"],
            env=f["env"],
            cwd=f["cwd"][0],
            uid=ids[0],
            gid=ids[1],
            groups=ids[2:],
            umask=_numbers(f["umask"])[0],
            hostname=f["hostname"][0],
            host=f.get("host", [b""])[0],  # an older version's record has none
            limits=[(limits[k], limits[k + 1], limits[k + 2]) for k in range(0, len(limits), 3)],
            scratch=f["scratch"],
            stdio=_numbers(f["stdio"]),
            tty=_numbers(f["tty"]),
            checkpoint=CheckpointSpec.of(f) if "checkpoint" in f else None,
            scheduling=_numbers(f.get("scheduling", [])),  # a job on record may have none
            descriptors=[Descriptor.unpack(item) for item in f.get("descriptors", [])],  # an older record has none
            secret=secret,
            lease=int(lease),
            home=int(home),
            trip=trip,
            line=line,
            forwards=_forwards(f["forwards"]) if "forwards" in f else (),
            stays="stays" in f,
        )


class CheckpointSpec:
    """What the agent must know of a job that can be checkpointed.

    job         its id
    generation  counts the times it was placed on a host; only the newest may run
    owner       JSON: the policy's name, and its table (OwnerPolicy.table) or null for `none`
    named       the user asked for this very host
    restore     the manifest of the image to go on from, without chunk tables; empty: a fresh start
    criu        hash, hex, of the criu that the submit side can send; empty: it has none
    anyway      no other host can make images of it: start it even where this one cannot
    rehearsal   bytes of the image, which is restored up to GO only, beside the job that runs here; 0: it is to go on
    """

    __slots__ = ("anyway", "criu", "generation", "job", "named", "owner", "rehearsal", "restore")

    def __init__(
        self, job: str, generation: int, owner: str, named: bool, restore: bytes, criu: str, anyway: bool = False,
        rehearsal: int = 0,
    ) -> None:  # fmt: skip
        self.job, self.generation, self.owner, self.named = job, generation, owner, named
        self.restore, self.criu, self.anyway, self.rehearsal = restore, criu, anyway, rehearsal

    def fields(self) -> dict[str, list[bytes]]:
        """Write it for a START frame."""
        return {
            "checkpoint": [b"1"],
            "job": [self.job.encode()],
            "generation": _texts([self.generation]),
            "owner": [self.owner.encode()],
            "named": [b"1"] if self.named else [],
            "restore": [self.restore] if self.restore else [],
            "criu": [self.criu.encode()] if self.criu else [],
            "anyway": [b"1"] if self.anyway else [],
            "rehearsal": _texts([self.rehearsal]) if self.rehearsal else [],
        }

    @classmethod
    def of(cls, f: dict[str, list[bytes]]) -> CheckpointSpec:
        """Read what ``fields`` has made. Raises KeyError, ValueError."""
        return cls(
            job=f["job"][0].decode(),
            generation=_numbers(f["generation"])[0],
            owner=f["owner"][0].decode(),
            named=bool(f["named"]),
            restore=b"".join(f["restore"]),
            criu=b"".join(f["criu"]).decode(),
            anyway=bool(f["anyway"]),
            rehearsal=sum(_numbers(f["rehearsal"])),
        )


def _forwards(items: list[bytes]) -> list[Forward]:
    from shim.wire.forwards import Forward  # hardly ever

    return [Forward.unpack(item) for item in items]


def _texts(numbers: list[int]) -> list[bytes]:
    return [b"%d" % n for n in numbers]


def _numbers(texts: list[bytes]) -> list[int]:
    return [int(t) for t in texts]
