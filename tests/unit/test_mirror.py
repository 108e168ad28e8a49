"""Which archive packages are taken from, of those that a machine's apt is set up with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.submit import mirror, obtain_criu
from checkpoint.wire.criu_bundle import BundleError

DEBIAN = """\
https://other.example/linux/debian/|Other|Other|stable
http://a.example/debian-security/|Debian|Debian-Security|main
http://b.example/pub/debian/|Debian|Debian|contrib
http://b.example/pub/debian/|Debian|Debian|main
http://c.example/debian/|Debian|Debian Backports|main
"""
UBUNTU = """\
http://a.example/ubuntu/|Ubuntu|Ubuntu|main
https://other.example/linux/debian/|Other|Other|main
"""
URIS = """\
'http://a.example/debian-security/dists/bookworm-security/InRelease' a_InRelease 0
'http://a.example/debian-security/dists/bookworm-security/main/binary-amd64/Packages.xz' a_Packages 0
'https://other.example/linux/debian/dists/bookworm/stable/binary-amd64/Packages.xz' other_Packages 0
'http://b.example/debian/dists/trixie/main/binary-amd64/Packages.xz' b_Packages 0
"""


def test_the_archive_is_debian_s_own_and_has_its_releases() -> None:
    assert mirror.of_targets(DEBIAN) == "http://b.example/pub/debian"
    assert mirror.of_targets(UBUNTU) is None
    assert mirror.of_targets("") is None


def test_without_lists_the_addresses_tell() -> None:
    assert mirror.of_uris(URIS) == "http://b.example/debian"
    assert mirror.of_uris("'http://a.example/ubuntu/dists/noble/main/binary-amd64/Packages.xz' a 0\n") is None


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH holds an apt-get alone, which says what is in the files `indextargets` and `uris` here."""
    (tmp_path / "apt-get").write_text(
        f'#!/bin/sh\n[ "$1" = indextargets ] && name=$1 || name=uris\nexec /bin/cat "{tmp_path}/$name"\n'
    )
    (tmp_path / "apt-get").chmod(0o755)
    for name in ("indextargets", "uris"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(mirror.VARIABLE, raising=False)
    return tmp_path


def test_what_is_asked_for_goes_first_then_the_variable_then_apt(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (apt / "uris").write_text(URIS)
    assert mirror.find() == "http://b.example/debian"
    (apt / "indextargets").write_text(DEBIAN)
    assert mirror.find() == "http://b.example/pub/debian"
    monkeypatch.setenv(mirror.VARIABLE, "http://named.example/debian/")
    assert mirror.find() == "http://named.example/debian"
    assert mirror.find("http://asked.example/debian/") == "http://asked.example/debian"


@pytest.mark.parametrize("machine", ["ubuntu", "no sources", "no apt"])
def test_where_there_is_none_one_sentence_says_what_to_do(apt: Path, machine: str) -> None:
    if machine == "ubuntu":
        (apt / "indextargets").write_text(UBUNTU)
        (apt / "uris").write_text(URIS)  # by addresses alone it would be another's
    elif machine == "no apt":
        os.unlink(apt / "apt-get")
    with pytest.raises(BundleError, match="no archive of Debian here; name one with --mirror ADDRESS") as caught:
        mirror.find()
    assert "\n" not in str(caught.value)


def test_what_is_no_address_is_refused_at_once(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=r"^--mirror 'foo' is no address of a Debian archive; write one such as "):
        mirror.find("foo")
    monkeypatch.setenv(mirror.VARIABLE, "bar/debian")
    with pytest.raises(BundleError, match=r"^\$REXEC_MIRROR 'bar/debian' is no address"):
        mirror.find()


def test_an_archive_that_cannot_be_read_names_what_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(command: list[str], what: str) -> None:
        raise BundleError(f"cannot {what}: it is not there")

    monkeypatch.setattr(obtain_criu, "_run", closed)
    monkeypatch.setattr(obtain_criu, "lets_expired_pass", lambda: False)
    monkeypatch.setattr(obtain_criu, "KEYRING", tmp_path)
    monkeypatch.setattr(obtain_criu.shutil, "which", lambda tool: tool)
    with pytest.raises(BundleError) as caught:
        obtain_criu.obtain(tmp_path, "http://a.example/debian")
    assert str(caught.value) == (
        "cannot read Debian forky's package list: it is not there; cannot read Debian trixie's package list: it is not "
        "there; name an archive that can be read with --mirror ADDRESS or in $REXEC_MIRROR"
    )


def test_a_file_of_mirrors_gives_its_first(apt: Path) -> None:
    listed = apt / "mirrors.list"
    (apt / "indextargets").write_text(f"mirror+file://{listed}/|Debian|Debian|main\n")
    listed.write_text("# near\n\nhttp://near.example/debian/\tpriority:1\nhttp://far.example/debian\n")
    assert mirror.find() == "http://near.example/debian"
    listed.write_text("# none\n")
    with pytest.raises(BundleError, match="names none; name one with --mirror"):
        mirror.find()
