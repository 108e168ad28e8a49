"""What a host that is asked for its facts says of namespaces that cannot be made."""

from __future__ import annotations

import pytest

from remoteio.errors import RexecError
from shim.execute import probe


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RexecError("root may not"), "root may not"),
        (OSError(1, "Operation not permitted"), "Operation not permitted"),
        (ZeroDivisionError("told"), "an error of rexec's own: ZeroDivisionError at test_probe.py:"),
        (KeyboardInterrupt("told"), "an error of rexec's own: KeyboardInterrupt at test_probe.py:"),
    ],
    ids=["refused", "by the kernel", "our own", "interrupted"],
)
def test_what_fails_is_named_by_its_step(monkeypatch: pytest.MonkeyPatch, error: BaseException, why: str) -> None:
    def fails(step: list[str]) -> None:
        step[0] = "unshare"
        raise error

    monkeypatch.setattr(probe, "_try_namespaces", fails)
    found = probe._namespaces()
    assert found["step"] == "unshare"
    assert found["error"].startswith(why)
