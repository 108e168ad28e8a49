"""ssh's words and ours; how ssh is called; what hosts it may not override."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from pathlib import Path

import pytest

from remoteio.submit.transport import ssh
from remoteio.submit.transport.paramiko_stream import parts, read_options, split_destination
from remoteio.submit.transport.ssh import open_local, split_config_option, ssh_argv, ssh_config
from remoteio.submit.transport.stream import TAIL_BYTES, TransportError, explain_ssh, has_aes, last_line, user_config

WORDS = {
    "ssh: Could not resolve hostname bix: Name or service not known": "the name bix is unknown",
    "ssh: connect to host box port 22: Connection refused": "start sshd there",
    "ssh: connect to host box port 22: No route to host": "no route",
    "ssh: connect to host box port 22: Connection timed out": "did not answer in time",
    "alice@box: Permission denied (publickey,password).": "it takes publickey,password",
    "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.": "what an attack looks like",
    "No ED25519 host key is known for box and you have requested strict checking.": "is not known yet",
    "Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures": "IdentitiesOnly",
    "kex_exchange_identification: read: Connection reset by peer": "closed the connection before the login",
    "banner exchange: Connection to 1.2.3.4 port 22: Broken pipe": "closed the connection before the login",
    "Connection closed by 1.2.3.4 port 22": "closed the connection before the login",  # all that OpenSSH 10 says
    "Connection to box closed by remote host.": "closed the connection; try",
    "/home/a/.ssh/config: terminating, 1 bad configuration options": "terminating, 1 bad",
    "something ssh never said before": "ssh says 'something ssh never said before'",
    "": "without a word",
}


@pytest.mark.parametrize("words", WORDS)
def test_what_ssh_says_becomes_one_sentence(words: str) -> None:
    text = str(explain_ssh("alice@box", 255, words))
    assert WORDS[words] in text
    assert "alice@box" in text and "\n" not in text


def test_banners_are_no_errors_but_a_hop_on_the_way_is_heard() -> None:
    closed = "Connection closed by UNKNOWN port 65535"
    assert "closed the connection" in str(explain_ssh("box", 255, closed, "Welcome to box!\n"))
    assert "Welcome" not in str(explain_ssh("box", 255, "", "Welcome to box!\n"))
    hop = str(explain_ssh("box", 255, closed, "alice@hop: Permission denied (publickey).\n"))
    assert "refused the login" in hop and "on the way" in hop


def test_the_last_line_is_the_last_with_something_in_it() -> None:
    assert last_line("one\n two \n\n  \n") == "two"
    assert last_line("") == ""


def test_the_users_configuration_goes_before_ours(tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.write_text("Host named\n Ciphers aes256-ctr\nMatch host other\n ConnectTimeout 3\n")
    ours = tmp_path / "ours"
    ours.write_text(ssh_config([str(user)], aes=True))

    def value(host: str, key: str) -> str:
        shown = subprocess.run(["ssh", "-G", "-F", ours, host], capture_output=True, text=True, check=True).stdout
        return next(line.split(" ", 1)[1] for line in shown.splitlines() if line.startswith(key + " "))

    assert value("named", "ciphers") == "aes256-ctr"
    assert value("named", "connecttimeout") == "15"
    assert value("other", "connecttimeout") == "3"
    first, second, *others = value("other", "ciphers").split(",")
    assert (first, second) == ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
    assert "chacha20-poly1305@openssh.com" in others


def test_nothing_is_forwarded_whatever_the_user_s_configuration_says(tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.write_text(
        "ForwardAgent yes\nForwardX11 yes\nLocalForward 8080 localhost:80\nRemoteForward 9090 localhost:90\n"
    )
    argv = ssh_argv("ssh", "far", "true", [], str(user), str(tmp_path / "log"), batch=True)
    shown = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=True).stdout
    said = shown.splitlines()
    assert "forwardx11 no" in said and "clearallforwardings yes" in said
    assert "forwardagent no" in said
    assert not [line for line in said if line.startswith(("localforward", "remoteforward", "dynamicforward"))]


def test_without_aes_in_the_cpu_no_cipher_is_named() -> None:
    assert "Ciphers" not in ssh_config([], aes=False)


def test_a_configuration_file_of_the_options_takes_the_place_of_the_users() -> None:
    assert split_config_option(["-p", "2222"]) == ([user_config(), "/etc/ssh/ssh_config"], ["-p", "2222"])
    assert split_config_option(["-F", "/a", "-v"]) == (["/a"], ["-v"])
    assert split_config_option(["-F/a"]) == (["/a"], [])
    assert split_config_option(["-Fnone"]) == ([], [])


def test_the_user_s_configuration_is_that_which_ssh_reads_whatever_home_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = user_config()
    assert before == f"{pwd.getpwuid(os.getuid()).pw_dir}/.ssh/config"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_config() == before


def test_a_destination_can_be_no_option_of_ssh() -> None:
    argv = ssh_argv("/usr/bin/ssh", "-oProxyCommand=evil", "true", [], "/c", "/l", batch=True)
    assert argv[-6:-3] == ["-T", "-e", "none"]  # of its flags ssh keeps the last
    assert argv[-3:] == ["--", "-oProxyCommand=evil", "true"]
    assert "BatchMode=yes" in argv


@pytest.mark.parametrize(
    ("cpuinfo", "aes"),
    [("flags\t\t: fpu aes avx\n", True), ("Features\t: fp asimd aes\n", True), ("flags\t\t: fpu vaes\n", False)],
)
def test_aes_is_read_from_the_flags(tmp_path: Path, cpuinfo: str, aes: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_aes(str(tmp_path / "cpuinfo")) is aes


@pytest.mark.parametrize(
    ("destination", "parts"),
    [
        ("box", ("", "box", "")),
        ("a@box", ("a", "box", "")),
        ("ssh://a@box:22", ("a", "box", "22")),
        ("ssh://[fe80::1]:22", ("", "fe80::1", "22")),
        ("a@b@box", ("a@b", "box", "")),
    ],
)
def test_destinations_are_taken_apart(destination: str, parts: tuple[str, str, str]) -> None:
    assert split_destination(destination) == parts


def test_paramiko_understands_the_plain_options_of_ssh_and_says_which_it_does_not() -> None:
    files, settings = read_options(["-F", "/c", "-p2222", "-o", "UserKnownHostsFile=/k", "-l", "alice"])
    assert files == [Path("/c")]
    assert settings == {"port": "2222", "userknownhostsfile": "/k", "user": "alice"}
    with pytest.raises(TransportError, match=r"-D needs the ssh program|-D9 needs the ssh program"):
        read_options(["-D9"])


def test_paramiko_is_given_what_a_configuration_includes(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("Host a\n User alice\n")
    (tmp_path / "b.conf").write_text("Host b\n User bob\n")
    main = tmp_path / "main"
    main.write_text(f"Port 1\nInclude {tmp_path}/*.conf /nowhere\nUser other\nHost x\n User xaver\n")
    assert list(parts(main)) == [
        "Port 1",
        "Host a\n User alice",
        "Host b\n User bob",
        "User other\nHost x\n User xaver",
    ]
    assert list(parts(tmp_path / "none")) == [""]
    main.write_text(f"Host x\n Include {tmp_path}/a.conf\n")
    with pytest.raises(TransportError, match="an Include within 'Host x' needs the ssh program"):
        list(parts(main))


def test_a_local_process_is_carried_with_its_status_and_the_end_of_its_stderr() -> None:
    stream = open_local(["sh", "-c", f"cat; head -c {2 * TAIL_BYTES} /dev/zero >&2; echo bye >&2; exit 7"])
    os.write(stream.write_fd, b"there and back")
    assert os.read(stream.read_fd, 100) == b"there and back"
    assert stream.wait(0) is None
    stream.close()
    assert stream.wait(0) == 7
    assert len(stream.stderr_tail()) == TAIL_BYTES
    assert "bye" in str(stream.failure())


def test_what_a_process_said_last_is_heard_however_late_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = ssh.ProcessStream._keep_stderr

    def late(stream: ssh.ProcessStream) -> None:
        time.sleep(0.8)  # the delay itself, as of a thread on a busy machine
        keep(stream)

    monkeypatch.setattr(ssh.ProcessStream, "_keep_stderr", late)
    stream = open_local(["sh", "-c", "echo the reason >&2; exit 7"])
    assert str(stream.failure()).endswith("ended with status 7, its last word: the reason")
    stream.close()


def test_only_what_ssh_has_to_say_at_once_is_shown_and_it_moves_no_cursor(capfd: pytest.CaptureFixture[str]) -> None:
    said = r"printf '\033[2Jother\nConfirm user presence \033[1mfor key x\r\nmore\n' >&2"
    stream = open_local(["sh", "-c", said])
    assert os.read(stream.read_fd, 1) == b""
    stream.close()
    assert capfd.readouterr().err == "Confirm user presence \\x1b[1mfor key x\n"


def test_a_program_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(TransportError, match="cannot start /nowhere/python3: No such file"):
        open_local(["/nowhere/python3"])
