"""Programs, libraries and data that a job has mapped or open are replaced here while it is held: it keeps the old."""

from __future__ import annotations

from tests.job_commands import LONG, Mover, give, here, pinned, said, well
from tests.until import until

# What it says is in pages of the files that nothing has touched before: they are read where the job goes on.
_FAR = "__attribute__((aligned(65536))) const char {name}[65536] = {{[4096] = '{letter}'}};"
LIBRARY = _FAR + "char of_library(void) {{ return *(volatile const char *)({name} + 4096); }}"
PROGRAM = """
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
char of_library(void);
FAR
static void tell(int data, const char *until) {
    char read = '-', now[3] = "---";
    const char *names[] = {"program", "library.so", "text"};
    while (access(until, F_OK)) usleep(20000);
    pread(data, &read, 1, 4096);
    for (int k = 0; k < 3; k++) {
        int fd = open(names[k], O_RDONLY);
        if (fd >= 0) now[k] = lseek(fd, 0, SEEK_END) == 5 ? 'n' : 'o';
        if (fd >= 0) close(fd);
    }
    printf("%c%c%c %.3s\\n", *(volatile const char *)(own + 4096), of_library(), read, now);
    fflush(stdout);
}
int main(void) {
    int data = open("text", O_RDONLY);
    puts("ready");
    fflush(stdout);
    tell(data, "one");
    tell(data, "two");
    return 0;
}
"""


FILES = ("program", "library.so", "text")


def made(mover: Mover) -> None:
    (mover.dir / "library.c").write_text(LIBRARY.format(name="far", letter="L"))
    (mover.dir / "program.c").write_text(PROGRAM.replace("FAR", _FAR.format(name="own", letter="P")))
    (mover.dir / "text").write_bytes(bytes(4096) + b"D" * 100)
    give(mover, *(mover.dir / name for name in ("library.c", "program.c", "text")))
    here(mover, "gcc", "-shared", "-fPIC", "-o", "library.so", "library.c")
    here(mover, "gcc", "-o", "program", "program.c", "./library.so", "-Wl,-z,separate-code")


def replace(mover: Mover) -> None:
    """By a rename, in place, and not at all."""
    (mover.dir / "new").write_bytes(b"12345")
    give(mover, mover.dir / "new")
    (mover.dir / "new").rename(mover.dir / "program")
    (mover.dir / "library.so").write_bytes(b"12345")
    (mover.dir / "text").unlink()


@LONG
def test_what_an_image_has_mapped_or_open_is_replaced_while_the_job_is_held(mover: Mover) -> None:
    """It goes on with the old bytes, wherever it goes, and finds the new files by name; so from an old image."""
    made(mover)
    job = mover.submit("./program", options=("--only",))
    said(mover, job, "ready\n")
    mover.verb("hold", job)
    until(lambda: {str(mover.dir / name) for name in FILES} <= pinned(mover, job), "the files are kept")
    replace(mover)
    first = mover.verb("images", job).splitlines()[1].split()[0]
    assert "the job goes on on" in mover.verb("release", job)
    (mover.dir / "one").touch()
    said(mover, job, "PLD nn-\n")
    mover.verb("vacate", job)
    (mover.dir / "two").touch()
    assert well(mover, job) == "ready\nPLD nn-\nPLD nn-\n"
    mover.verb("restart", first)
    assert well(mover, job) == "ready\nPLD nn-\nPLD nn-\n"
