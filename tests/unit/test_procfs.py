"""What is read of /proc, from the kernel's own words."""

from __future__ import annotations

from pathlib import Path

from checkpoint import procfs


def test_sizes_of_meminfo_are_bytes_and_what_is_no_size_is_left_out() -> None:
    text = "MemTotal:        9 kB\nMemAvailable:    2048 kB\nActive(anon):       1 kB\nHugePages_Total:       3\n"
    assert procfs.memory(text) == {"MemTotal": 9 << 10, "MemAvailable": 2 << 20, "Active(anon)": 1 << 10}


def test_this_machine_tells_its_memory() -> None:
    found = procfs.memory(Path("/proc/meminfo").read_text())
    assert 0 < found["MemAvailable"] <= found["MemTotal"]


def test_features_are_those_that_every_cpu_has() -> None:
    text = "processor\t: 0\nflags\t\t: fpu aes avx2\nvmx flags\t: vnmi\n\nprocessor\t: 1\nflags\t\t: fpu aes\n"
    assert procfs.cpu_features(text) == {"fpu", "aes"}
    assert procfs.cpu_features("processor\t: 0\nFeatures\t: fp asimd\n") == {"fp", "asimd"}
    assert procfs.cpu_features("processor\t: 0\n") == frozenset()
