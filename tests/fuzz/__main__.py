"""`python -m tests.fuzz [NAME…]`: fuzz each target, or those named, for FUZZ_SECONDS; one process each, one by one.

A finding ends its target, and is left in FUZZ_DIRECTORY beside the corpus that grew: mend it at its cause, and add the
input to tests/fuzz/seeds/NAME.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import atheris

from tests.fuzz.target import SEEDS

SECONDS = os.environ.get("FUZZ_SECONDS", "600")
DIRECTORY = Path(os.environ.get("FUZZ_DIRECTORY", "/var/tmp/rexec-fuzz"))
_MEMORY = 4 << 30  # bytes of address space: who asks for more at once gets a MemoryError, which nobody declares
_RESIDENT = 700  # MiB
_HANG = 10  # seconds for one input
_LONGEST = 4096  # bytes of an input


def main() -> int:
    """Fuzz. Returns how many targets had a finding, at most 1."""
    if len(sys.argv) > 2 and sys.argv[1] == "--one":
        _fuzz(sys.argv[2], sys.argv[3:])
    names = sys.argv[1:] or [path.name for path in sorted(SEEDS.iterdir())]
    bad = [name for name in names if not _run(name)]
    print(f"{len(names)} targets, {SECONDS} s each; findings: {', '.join(bad) or 'none'} (in {DIRECTORY})")
    return min(len(bad), 1)


def _run(name: str) -> bool:
    """Fuzz one target in a process of its own. False: it had a finding."""
    corpus, found = DIRECTORY / name / "corpus", DIRECTORY / name / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    options = [
        f"-max_total_time={SECONDS}", f"-timeout={_HANG}", f"-rss_limit_mb={_RESIDENT}", f"-max_len={_LONGEST}",
        f"-artifact_prefix={found}/", "-handle_xfsz=0", "-print_final_stats=1",
    ]  # fmt: skip
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", "tests.fuzz", "--one", name, *options, str(corpus), str(SEEDS / name)]
    return subprocess.run(command).returncode == 0


def _fuzz(name: str, options: list[str]) -> None:
    """Fuzz in this process, which ends with it."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with atheris.instrument_imports(include=["remoteio", "checkpoint", "shim", "jeepney", "tomllib"]):
        from tests.fuzz.targets import BY_NAME
    atheris.Setup([sys.argv[0], *options], BY_NAME[name].one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
