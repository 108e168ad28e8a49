"""Programs people run, with what only this machine has: its libraries, compilers, packages, interpreters."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType

import numpy
import pytest

from tests import c_project
from tests.job_commands import LONG
from tests.program import Combo
from tests.real_programs import EACH, PYTHON, built, give, well

NUMPY_JOB = """
import numpy as np
a = np.random.default_rng(7).normal(size=(300, 300))
u, s, vt = np.linalg.svd(a)
np.savez("result.npz", s=s, spectrum=np.fft.fft(a[0]), product=a @ a.T)
print(np.__file__, np.allclose(u * s @ vt, a))
"""


@EACH
def test_numpy_that_is_only_here(combo: Combo, desk: ModuleType) -> None:
    if combo.on != "local":
        with pytest.raises(desk.DeskError, match="ModuleNotFoundError: No module named 'numpy'"):
            desk.run("alpha", ["python3", "-c", "import numpy"])
    packages = combo.dir / "packages"
    ours = Path(numpy.__path__[0])
    for part in (ours, ours.with_name("numpy.libs")):  # its OpenBLAS lies beside it
        shutil.copytree(part, packages / part.name, ignore=shutil.ignore_patterns("tests", "__pycache__", "*.pyi"))
    give(combo, packages)
    (combo.dir / "job.py").write_text(NUMPY_JOB)
    said = well(combo.run([PYTHON, "job.py"], env={"PYTHONPATH": str(packages)}))
    assert said.decode() == f"{packages}/numpy/__init__.py True\n"
    a = numpy.random.default_rng(7).normal(size=(300, 300))
    with numpy.load(combo.dir / "result.npz") as result:
        assert numpy.allclose(result["s"], numpy.linalg.svd(a, compute_uv=False))
        assert numpy.allclose(result["spectrum"], numpy.fft.fft(a[0]))
        assert numpy.allclose(result["product"], a @ a.T)


@EACH
def test_gcc_makes_a_program_that_runs_at_both_ends(combo: Combo) -> None:
    source = '#include <math.h>\n#include <stdio.h>\nint main(void) { printf("%.6f\\n", cbrt(2)); return 3; }\n'
    (combo.dir / "hello.c").write_text(source)
    well(combo.run(["gcc", "-O2", "-Wall", "-o", "hello", "hello.c", "-lm"]))
    for done in (combo.run(["./hello"]), combo.here(["./hello"])):
        assert (done.returncode, done.stdout) == (3, b"1.259921\n")


@pytest.mark.timeout(300)  # a whole build, at both ends
@pytest.mark.long(lambda **_: True)  # one that is moved in the middle is compared too
@pytest.mark.where(lambda combo: combo == "root-root")
def test_a_c_project_is_built_to_the_bit_as_here(combo: Combo, c_sources: Path) -> None:
    build = ["sh", "-ec", f"{' '.join(c_project.CONFIGURE)} --static; make -j4; make test"]
    digests = []
    for name in ("here", "there"):
        tree = combo.dir / name / "zlib-ng"
        shutil.copytree(c_sources, tree)
        give(combo, tree)
        if name == "here":
            well(combo.here(["sh", "-ec", f"cd {tree}; exec {' '.join(map(repr, build))}"]))
        else:
            assert b"inflate with dictionary: hello, hello!" in well(combo.run(build, cwd=tree, timeout=280))
        digests.append(built(tree))
    assert len(digests[0]) > 25
    assert digests[1] == digests[0]


WHEEL = {
    "greet/__init__.py": "import pathlib\ndef main(): print(pathlib.Path(__file__).with_name('text').read_text())\n",
    "greet/text": "hello from a wheel",
    "greet-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n",
    "greet-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "greet-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greet:main\n",
}


@pytest.mark.timeout(300)  # python reads and writes thousands of files
@pytest.mark.where(lambda combo: combo == "user-alice")
@LONG
def test_pip_installs_a_wheel_into_a_new_venv(combo: Combo) -> None:
    with zipfile.ZipFile(combo.dir / "greet-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in WHEEL.items():
            wheel.writestr(name, text)
        wheel.writestr("greet-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in WHEEL))
    script = f"{PYTHON} -m venv new; new/bin/pip install --no-index ./greet-1.0-py3-none-any.whl; new/bin/greet"
    assert well(combo.run(["sh", "-ec", script], timeout=280)).endswith(b"\nhello from a wheel\n")
    assert well(combo.here(["new/bin/greet"])) == b"hello from a wheel\n"


NODE_JOB = """
const fs = require("fs"), crypto = require("crypto"), path = require("path");
fs.mkdirSync("made");
for (let i = 0; i < 200; i++) fs.writeFileSync(path.join("made", `${i}.json`), JSON.stringify({i, square: i * i}));
Promise.all(fs.readdirSync("made").map(name => fs.promises.readFile(path.join("made", name), "utf8"))).then(texts => {
  console.log(texts.map(JSON.parse).reduce((sum, one) => sum + one.square, 0));
  process.exitCode = 4;
});
"""


@EACH
def test_a_node_program(combo: Combo) -> None:
    (combo.dir / "job.js").write_text(NODE_JOB)
    done = combo.run(["node", "job.js"])
    assert (done.returncode, done.stdout, done.stderr) == (4, b"%d\n" % sum(i * i for i in range(200)), b"")
    assert len(list((combo.dir / "made").iterdir())) == 200


@EACH
def test_a_big_file_through_a_pipe(combo: Combo) -> None:
    block = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with combo.popen(["sha256sum"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(256):
            part = number.to_bytes(4, "little") + block
            digest.update(part)
            process.stdin.write(part)
        process.stdin.close()
        assert process.stdout.read().decode() == f"{digest.hexdigest()}  -\n"
        assert process.wait(60) == 0
