"""What a fresh machine is told of this one."""

from __future__ import annotations

from pathlib import Path

from tests import fresh_settings

APT = """\
Acquire "";
Acquire::Languages:: "en";
Acquire::http "";
Acquire::http::Proxy "http://proxy.example:3128/";
Acquire::https::CAInfo "/etc/ssl/own.pem";
Acquire::IndexTargets::deb::Packages::Description "$(RELEASE) Packages";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
"""
SITE = """\
[global]
index-url = https://site.example/simple
cert = /etc/ssl/site.pem
find-links = /opt/wheels
[list]
format = columns
"""
OWN = """\
[global]
extra-index-url =
    file:///opt/index
    https://own.example/simple
[install]
trusted-host = own.example
"""


def test_of_apt_s_settings_those_by_which_it_reaches_archives() -> None:
    assert fresh_settings.apt(APT).splitlines() == [
        'Acquire::http::Proxy "http://proxy.example:3128/";',
        'Acquire::https::CAInfo "/etc/ssl/own.pem";',
        'Acquire::Retries "3";',
        'Acquire::Check-Valid-Until "false";',
    ]


def test_pip_s_files_are_read_in_its_order_and_its_variables_are_above_them() -> None:
    said = fresh_settings.pip([SITE, OWN], {"PIP_CERT": "/etc/ssl/env.pem", "PIP_FIND_LINKS": "/opt/wheels"})
    assert said.splitlines() == [
        "[global]",
        "index-url = https://site.example/simple",
        "extra-index-url = https://own.example/simple",
        "trusted-host = own.example",
        "cert = /etc/ssl/env.pem",
    ]


def test_pip_without_settings() -> None:
    assert fresh_settings.pip([], {}) == "[global]\n"


def test_of_the_variables_those_that_say_how_to_reach_others() -> None:
    kept = {"https_proxy": "http://proxy.example", "NO_PROXY": "localhost", "SSL_CERT_FILE": "/etc/ssl/own.pem"}
    assert fresh_settings.variables({**kept, "HOME": "/root", "PYTHONPATH": "/opt"}) == kept


def test_the_certificates_that_settings_name_are_found(tmp_path: Path) -> None:
    bundle = tmp_path / "own.pem"
    bundle.touch()
    texts = [f'Acquire::https::CAInfo "{bundle}";\n', f"cert = {bundle}\nindex-url = https://a.example/simple\n", "/no"]
    assert fresh_settings.certificates(texts) == [str(bundle)]
