"""What a machine with nothing of ours must be told of this one: how apt, pip and others reach what they fetch."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "cert", "timeout", "default-timeout", "retries")
# pip's documentation, "Configuration files"; the last says most.
PIP_FILES = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
# What programs that fetch ask the environment for: curl(1), OpenSSL's X509_get_default_cert_file(3), requests.
_VARIABLE = re.compile(r"(https?|no|all)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE", re.IGNORECASE)
_ACQUIRE = re.compile(r'^Acquire::(?:https?::\S+|Retries|Force\S+|Check\S+) "[^"]*";$', re.MULTILINE)


def apt(dump: str) -> str:
    """Pick how apt reaches archives from what `apt-config dump` says: proxies, certificates, tries."""
    return "".join(f"{line}\n" for line in _ACQUIRE.findall(dump))


def pip(files: Iterable[str], environment: Mapping[str, str]) -> str:
    """Write a pip.conf of how pip reaches its index, from the texts of its own and, above them, its variables.

    An index that is a directory of this machine is left out: it is not there.
    """
    found: dict[str, str] = {}
    for text in files:
        parser = configparser.RawConfigParser()
        parser.read_string(text)
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update(parser.items(section))
    lines = ["[global]"]
    for key in PIP_KEYS:
        value = environment.get("PIP_" + key.upper().replace("-", "_"), found.get(key, ""))
        words = [word for word in value.split() if not word.startswith("file:")]
        lines += [f"{key} = {' '.join(words)}"] if words else []
    return "\n".join(lines) + "\n"


def pip_files(environment: Mapping[str, str]) -> list[str]:
    """Read the texts of pip's configuration files here."""
    named = (*PIP_FILES, environment.get("PIP_CONFIG_FILE", ""))
    return [Path(name).expanduser().read_text() for name in named if os.path.isfile(os.path.expanduser(name))]


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Pick the variables that say how to reach others."""
    return {name: value for name, value in environment.items() if _VARIABLE.fullmatch(name)}


def certificates(texts: Iterable[str]) -> list[str]:
    """Find the files of this machine that such settings name, each once: they have to be there too."""
    words = [word for text in texts for word in re.findall(r"/[^\s\"';]+", text)]
    return sorted({word for word in words if os.path.isfile(word)})
