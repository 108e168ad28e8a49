"""What people run, moved between alpha and beta in the middle of it: each ends as if it had never moved."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy
import pytest

from tests import c_project
from tests.job_commands import LONG, ROOT, USER, Mover, give, here, out, said, supervisors, vacate, well
from tests.real_programs import PYTHON, built
from tests.until import until

# Each is run here as well, and moved several times: 100 s on a busy machine.
pytestmark = [pytest.mark.timeout(300), LONG]

NUMPY = """
import hashlib, sys
import numpy as np
rng = np.random.default_rng(7)
a = rng.normal(size=(300, 300))
total = np.zeros_like(a)
for step in range(200):
    u, s, vt = np.linalg.svd(a)
    a = (u * np.tanh(s)) @ vt @ rng.normal(size=a.shape)
    a = a / np.linalg.norm(a) + np.fft.ifft2(np.fft.fft2(a)).real * 1e-3
    total += a
    if step % 5 == 0:
        print(step, hashlib.sha256(a.tobytes()).hexdigest(), flush=True)
np.save(sys.argv[1], total)
"""


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """numpy, where every user can read it."""
    with tempfile.TemporaryDirectory(prefix="desk-numpy-", dir="/var/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        ours = Path(numpy.__path__[0])
        for part in (ours, ours.with_name("numpy.libs")):  # its OpenBLAS lies beside it
            shutil.copytree(part, top / part.name, ignore=shutil.ignore_patterns("tests", "*.pyi"))
        yield top


@USER
def test_numpy_moved_and_restarted_after_power_loss_is_equal_to_the_bit(
    mover: Mover,
    packages: Path,
    desk_alone: ModuleType,
) -> None:
    """Both hosts lose their power and the supervisor is killed: what is left is an image on the disk."""
    (mover.dir / "job.py").write_text(NUMPY)
    env = {"PYTHONPATH": str(packages), "OPENBLAS_NUM_THREADS": "1"}
    undisturbed = here(mover, PYTHON, "job.py", "here.npy", env=env)
    job = mover.submit("env", *(f"{name}={value}" for name, value in env.items()), PYTHON, "job.py", "there.npy")
    for step in (5, 40, 75):
        said(mover, job, f"\n{step} ")
        vacate(mover, job)
    mover.verb("checkpoint", job)
    size = len(out(mover, job))
    until(lambda: len(out(mover, job)) > size + 200, "it goes on after the checkpoint")
    for host in ("alpha", "beta"):
        desk_alone.cut(host)
    for pid in supervisors(mover, job):
        os.kill(pid, signal.SIGKILL)
    for host in ("alpha", "beta"):
        desk_alone.power_off(host)
    until(lambda: mover.job(job)["state"] == "stopped", "its supervisor is gone")
    desk_alone.up()
    mover.verb("restart", job)
    assert well(mover, job) == undisturbed
    assert (mover.dir / "there.npy").read_bytes() == (mover.dir / "here.npy").read_bytes()


@ROOT
def test_a_build_moved_in_the_middle(mover: Mover, c_sources: Path) -> None:
    trees = [mover.dir / name / "zlib-ng" for name in ("here", "there")]
    shutil.copytree(c_sources, trees[0])
    give(mover, trees[0].parent)
    here(mover, *c_project.CONFIGURE, cwd=trees[0])
    shutil.copytree(trees[0], trees[1])
    give(mover, trees[1].parent)
    here(mover, "make", "-j4", cwd=trees[0])
    job = mover.submit("make", "-j4", "-C", str(trees[1]))
    for objects in (3, 12):
        until(lambda: len(list(trees[1].glob("*.o"))) >= objects, f"{objects} objects")  # noqa: B023
        vacate(mover, job)
    assert not (trees[1] / "minigzipsh").exists(), "it was all done before the last move"
    well(mover, job)
    assert len(built(trees[0])) > 30
    assert built(trees[1]) == built(trees[0])


SQL = """\
create table t(n integer primary key, x text);
begin immediate;
insert into t with recursive c(n) as (select 1 union all select n + 1 from c where n < 30000)
  select n, hex(randomblob(50)) from c;
select 'inserted', count(*) from t;
.shell while [ ! -e go ]; do sleep 0.05; done
commit;
pragma integrity_check;
select 'kept', count(*), sum(n) from t;
"""


def test_sqlite_moved_within_a_transaction(mover: Mover) -> None:
    (mover.dir / "work.sql").write_text(SQL)
    job = mover.submit("sqlite3", "-bail", "-init", "/dev/null", "data.db", ".read work.sql")
    said(mover, job, "inserted|30000\n")
    for _ in range(2):
        vacate(mover, job)
        with pytest.raises(AssertionError, match="database is locked"):  # its lock has moved with it
            here(mover, "sqlite3", "data.db", "insert into t values (0, 'ours')")
    (mover.dir / "go").touch()
    assert well(mover, job) == f"inserted|30000\nok\nkept|30000|{30000 * 30001 // 2}\n"
    assert here(mover, "sqlite3", "data.db", "pragma integrity_check; select count(*) from t") == "ok\n30000\n"
    assert not (mover.dir / "data.db-journal").exists()


def test_sort_of_more_than_its_buffer_moved_with_its_temporary_files(mover: Mover) -> None:
    """A pipeline besides: the producer waits in the middle, so that the move is there."""
    lines = [f"{n * 2654435761 % (1 << 32):08x} {n}\n" for n in range(200_000)]
    for name, part in (("one", lines[:80_000]), ("two", lines[80_000:160_000]), ("three", lines[160_000:])):
        (mover.dir / name).write_text("".join(part))
    temporary = mover.dir / "temporary"
    temporary.mkdir()
    give(mover, temporary)
    script = "until_there() { while [ ! -e $1 ]; do sleep .05; done; };"
    script += (
        "(cat one; until_there a; cat two; until_there b; cat three) | sort -S 1M | grep -v '5 ' | tee sorted | wc -l"
    )
    job = mover.submit("env", f"TMPDIR={temporary}", "LC_ALL=C", "sh", "-c", script)
    for name in "ab":
        until(lambda: len(list(temporary.iterdir())) >= 3, "temporary files")
        vacate(mover, job)
        (mover.dir / name).touch()
    kept_lines = sorted(line for line in lines if "5 " not in line)
    assert well(mover, job) == f"{len(kept_lines)}\n"
    assert (mover.dir / "sorted").read_text() == "".join(kept_lines)
    assert not list(temporary.iterdir())


NODE = """
const fs = require("fs"), crypto = require("crypto"), zlib = require("zlib");
const { Worker, isMainThread, parentPort } = require("worker_threads");
if (!isMainThread) {
  parentPort.on("message", n => parentPort.postMessage(crypto.createHash("sha256").update(String(n)).digest("hex")));
} else {
  const worker = new Worker(__filename), packed = [];
  const next = n => {
    if (n === 150) {
      fs.writeFileSync("sum", crypto.createHash("sha256").update(packed.join()).digest("hex"));
      return worker.terminate();
    }
    setTimeout(() => { worker.once("message", async text => {
      packed.push(text + zlib.gunzipSync(await require("util").promisify(zlib.gzip)(text)));
      console.log(n);
      const go = () => n === 100 && !fs.existsSync("go") ? setTimeout(go, 20) : next(n + 1);
      go();
    }); worker.postMessage(n); }, 20);
  };
  next(0);
}
"""


@ROOT
def test_node_with_a_worker_thread(mover: Mover) -> None:
    (mover.dir / "job.js").write_text(NODE)
    (mover.dir / "go").touch()
    expected = here(mover, "node", "job.js")
    digest = (mover.dir / "sum").read_text()
    (mover.dir / "sum").unlink()
    (mover.dir / "go").unlink()
    rings = (
        "fs.readdirSync('/proc/self/fd').some(n => { try { return /uring/.test(fs.readlinkSync('/proc/self/fd/' + n)) }"
    )
    rings += " catch { } })"
    job = mover.submit("node", "job.js")
    if here(mover, "node", "-p", rings) == "true\n":  # docs/limits.md: Debian 13's
        said(mover, job, "\n5\n")
        assert "of kind io_uring, which CRIU cannot save" in mover.verb_fails("vacate", job)[2]
        (mover.dir / "go").touch()
        assert well(mover, job) == expected
        return
    for n in (5, 60):
        said(mover, job, f"\n{n}\n")
        vacate(mover, job)
    (mover.dir / "go").touch()
    assert well(mover, job) == expected
    assert (mover.dir / "sum").read_text() == digest


JAVA = """
import java.util.*;
import java.util.concurrent.*;
public class Job {
  public static void main(String[] arguments) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(3);
    List<Map<Integer, byte[]>> held = new ArrayList<>();
    Random seed = new Random(7);
    for (int n = 0; n < 150; n++) {
      List<Future<Long>> parts = new ArrayList<>();
      for (int k = 0; k < 3; k++) {
        long start = seed.nextLong();
        parts.add(pool.submit(() -> new Random(start).longs(20000).reduce(0, (a, b) -> a * 31 + b)));
      }
      held.add(Map.of(n, new byte[100000]));
      if (n % 40 == 39) held.clear();
      long sum = 0;
      for (Future<Long> part : parts) sum += part.get();
      System.out.println(n + " " + sum);
      do Thread.sleep(20); while (n == 100 && !new java.io.File("go").exists());
    }
    pool.shutdown();
  }
}
"""


@USER
def test_java_with_threads_and_a_heap_that_is_collected(mover: Mover) -> None:
    (mover.dir / "Job.java").write_text(JAVA)
    command = ("java", "-Xmx64m", "Job.java")
    (mover.dir / "go").touch()
    expected = here(mover, *command)
    (mover.dir / "go").unlink()
    job = mover.submit(*command)
    for n in (5, 60):
        said(mover, job, f"\n{n} ")
        vacate(mover, job)
    (mover.dir / "go").touch()
    assert well(mover, job) == expected
