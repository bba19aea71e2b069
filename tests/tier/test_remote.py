"""The network tier against a real server: what others do there, and what goes wrong on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from stepwell.base.errors import ConfigError
from stepwell.tier.contract import ReadOutcome, WriteOutcome
from stepwell.tier.frame import HEADER_BYTES
from stepwell.tier.remote import RemoteConfig, RemoteTier
from tests.redis_server import free_port, needs_server, redis_server
from tests.values import SIZE, content, key, read, write

pytestmark = needs_server


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)):
        yield Path(name)


@pytest.fixture
def fresh() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def config(folder: Path, **fields: object) -> RemoteConfig:
    values = {"url": f"unix://{folder}/redis.sock", "prefix": f"{time.monotonic_ns()}:", **fields}
    return RemoteConfig(**values)  # type: ignore[arg-type]


def raw(folder: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=f"{folder}/redis.sock")


def names(folder: Path, setting: RemoteConfig) -> list[bytes]:
    with raw(folder) as client:
        return client.keys(f"{setting.prefix}*")


def test_processes_share_entries_and_prefixes_part_them(folder: Path) -> None:
    setting = config(folder)
    one, two, other = RemoteTier(setting), RemoteTier(setting), RemoteTier(config(folder))
    assert write(one, "a") is WriteOutcome.STORED
    assert write(two, "a") is WriteOutcome.PRESENT
    assert read(two, "a") == content("a")
    assert read(other, "a") is ReadOutcome.MISSING
    two.delete([key("a")])
    assert read(one, "a") is ReadOutcome.MISSING
    for tier in (one, two, other):
        tier.close()


def test_entries_expire_and_writing_again_renews(folder: Path) -> None:
    setting = config(folder, ttl_seconds=100)
    tier = RemoteTier(setting)
    write(tier, "a")
    (name,) = names(folder, setting)
    with raw(folder) as client:
        assert 90 < client.ttl(name) <= 100
        client.expire(name, 5)
        assert write(tier, "a") is WriteOutcome.PRESENT
        assert 90 < client.ttl(name) <= 100
        client.pexpire(name, 1)
        time.sleep(0.01)
    assert read(tier, "a") is ReadOutcome.MISSING
    tier.close()
    for_ever = RemoteTier(replaced := config(folder, ttl_seconds=0))
    write(for_ever, "a")
    assert write(for_ever, "a") is WriteOutcome.PRESENT
    with raw(folder) as client:
        assert client.ttl(names(folder, replaced)[0]) == -1
    for_ever.close()


@pytest.mark.parametrize("at", [0, 30, 64, 80, HEADER_BYTES, HEADER_BYTES + 2, HEADER_BYTES + 5000])
def test_a_damaged_entry_is_corrupt_and_deleted(folder: Path, at: int) -> None:
    setting = config(folder)
    tier = RemoteTier(setting)
    write(tier, "a", meta=b"meta")
    (name,) = names(folder, setting)
    with raw(folder) as client:
        old = client.getrange(name, at, at)
        client.setrange(name, at, bytes([old[0] ^ 4]))
    assert read(tier, "a") is ReadOutcome.CORRUPT
    assert names(folder, setting) == [] and tier.usage().corrupt == 1
    assert write(tier, "a") is WriteOutcome.STORED and read(tier, "a") == content("a")
    tier.close()


@pytest.mark.parametrize("kept", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, 5000, 10**6])
def test_a_cut_or_lengthened_entry_is_corrupt(folder: Path, kept: int) -> None:
    setting = config(folder)
    tier = RemoteTier(setting)
    write(tier, "a")
    write(tier, "b")
    with raw(folder) as client:
        name = setting.prefix.encode() + key("a").hex().encode()
        client.set(name, client.get(name)[:kept].ljust(min(kept, SIZE + 300), b"x"))
    out = [bytearray(SIZE), bytearray(SIZE)]
    outcomes = tier.read_batch([key("a"), key("b")], [[memoryview(o)] for o in out])
    assert outcomes == [ReadOutcome.CORRUPT, ReadOutcome.OK]  # the reply was read to its end
    assert out[1] == content("b")
    tier.close()


def test_an_entry_under_a_wrong_name_is_corrupt(folder: Path) -> None:
    setting = config(folder)
    tier = RemoteTier(setting)
    write(tier, "a")
    with raw(folder) as client:
        client.rename(names(folder, setting)[0], setting.prefix.encode() + key("b").hex().encode())
    assert read(tier, "b") is ReadOutcome.CORRUPT
    tier.damage(key("b"))  # not there: nothing happens
    tier.close()


def test_a_key_of_another_type_is_an_error_and_the_connection_lives_on(folder: Path) -> None:
    setting = config(folder)
    tier = RemoteTier(setting)
    write(tier, "b")
    with raw(folder) as client:
        client.rpush(setting.prefix.encode() + key("a").hex().encode(), "x")
    with pytest.raises(OSError, match="WRONGTYPE"):
        tier.read_batch([key("a"), key("b")], [[memoryview(bytearray(SIZE))] for _ in range(2)])
    assert read(tier, "b") == content("b")
    tier.close()


def test_a_batch_is_read_like_one_by_one(folder: Path) -> None:
    tier = RemoteTier(config(folder))
    for name in range(0, 40, 2):
        write(tier, name, 1000 * name)
    outs = [bytearray(1000 * name) for name in range(40)]
    outcomes = tier.read_batch([key(n) for n in range(40)], [[memoryview(o)] for o in outs])
    for name, outcome in enumerate(outcomes):
        assert outcome is (ReadOutcome.MISSING if name % 2 else ReadOutcome.OK)
        if outcome is ReadOutcome.OK:
            assert outs[name] == content(name, 1000 * name)
    tier.close()


def test_a_server_without_room_is_full(fresh: Path) -> None:
    with redis_server(fresh, "--maxmemory", "3mb", "--maxmemory-policy", "noeviction"):
        tier = RemoteTier(config(fresh))
        outcomes = [write(tier, name) for name in range(20)]
        assert WriteOutcome.FULL in outcomes
        for name, outcome in enumerate(outcomes):
            stored = outcome is WriteOutcome.STORED
            assert read(tier, name) == (content(name) if stored else ReadOutcome.MISSING)
        tier.close()


def test_a_value_over_the_limit_is_an_error(folder: Path) -> None:
    tier = RemoteTier(config(folder, max_value_bytes=1000))
    with pytest.raises(OSError, match="one value"):
        write(tier, "a")
    tier.close()


def test_a_restarted_server_is_found_again(fresh: Path) -> None:
    tier = RemoteTier(config(fresh))
    with redis_server(fresh):
        write(tier, "a")
        assert read(tier, "a") == content("a")
    with pytest.raises(OSError):
        read(tier, "a")
    with pytest.raises(OSError):
        tier.contains([key("a")])
    with redis_server(fresh):
        assert read(tier, "a") is ReadOutcome.MISSING
        assert write(tier, "a") is WriteOutcome.STORED and read(tier, "a") == content("a")
    tier.close()


def patiently(call: Callable[[], Any]) -> Any:
    """A busy machine may not answer in the time that this test gives: then asked again."""
    for _ in range(100):
        try:
            return call()
        except TimeoutError:
            continue
    return call()


def test_a_server_that_does_not_answer_is_a_timeout(fresh: Path) -> None:
    with redis_server(fresh) as server:
        tier = patiently(lambda: RemoteTier(config(fresh, socket_timeout=0.2)))
        patiently(lambda: write(tier, "a"))
        server.send_signal(signal.SIGSTOP)
        for call in (
            lambda: read(tier, "a"),
            lambda: write(tier, "b"),
            lambda: tier.contains([key("a")]),
            lambda: tier.size_of(key("a")),
        ):
            with pytest.raises(TimeoutError):
                call()
        server.send_signal(signal.SIGCONT)
        # late replies to what timed out must not be taken for answers to these
        for name in ("c", "d", "e"):
            assert patiently(partial(read, tier, name)) is ReadOutcome.MISSING
        assert patiently(lambda: read(tier, "a")) == content("a")
        tier.close()


def test_a_server_killed_in_the_middle(fresh: Path) -> None:
    tier = RemoteTier(config(fresh))
    stop = threading.Event()
    bad: list[object] = []
    with redis_server(fresh) as server:
        for name in range(5):
            write(tier, name)

        def read_on() -> None:
            while not stop.is_set():
                for name in range(5):
                    try:
                        got = read(tier, name)
                    except OSError:
                        continue
                    if got != content(name):
                        bad.append(got)

        threads = [threading.Thread(target=read_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        os.kill(server.pid, signal.SIGKILL)
        time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
    assert bad == []
    tier.close()


def test_passwords(fresh: Path) -> None:
    with redis_server(fresh, "--requirepass", "hush"):
        right = RemoteTier(config(fresh, password="hush"))
        assert write(right, "a") is WriteOutcome.STORED
        for setting in (config(fresh), config(fresh, password="wrong")):
            wrong = RemoteTier(setting)
            with pytest.raises(OSError) as raised:
                write(wrong, "b")
            assert "hush" not in str(raised.value)
            wrong.close()
        right.close()


def test_the_rights_that_the_docs_give_are_enough(fresh: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "hierarchy.md"
    found = re.search(r"`(ACL SETUSER [^`]+)`", page.read_text(encoding="utf-8"))
    assert found is not None
    with redis_server(fresh):
        with raw(fresh) as client:
            client.execute_command(*found[1].replace("PASSWORD", "hush").split())
        url = f"unix://stepwell@{fresh}/redis.sock?db=1"
        tier = RemoteTier(RemoteConfig(url=url, password="hush"))
        assert write(tier, "a") is WriteOutcome.STORED and read(tier, "a") == content("a")
        assert write(tier, "a") is WriteOutcome.PRESENT and tier.size_of(key("a")) == SIZE
        assert tier.contains([key("a")])
        tier.delete([key("a")])
        tier.close()
        with raw(fresh) as client:
            assert client.acl_log() == []


def test_secrets_are_not_printed() -> None:
    setting = RemoteConfig(url="redis://me:hush@host/0", password="hush", username="me")
    assert "hush" not in repr(setting)
    assert "hush" not in repr(RemoteTier(setting))


@pytest.mark.parametrize("url", [
    "redis://me:hush/hush@host:6379/0", "redis://host:hush", "redis://host/0?socket_timeout=hush",
    "redis://host/0?hush=1",
])  # fmt: skip
def test_a_url_that_cannot_be_read_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as refused:
        RemoteTier(RemoteConfig(url=url))
    assert "hush" not in "".join(traceback.format_exception(refused.value, chain=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://host"},
        {"url": "redis://host", "ca_file": "ca.pem"},
        {"url": "redis://host", "ttl_seconds": -1},
        {"url": "redis://host", "socket_timeout": 0},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RemoteConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_tls_with_a_certificate_that_is_checked(fresh: Path) -> None:
    port = free_port()
    certificate, secret = str(fresh / "cert.pem"), str(fresh / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", secret]
    command += ["-out", certificate, "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    options = ["--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", secret]
    options += ["--tls-ca-cert-file", certificate, "--tls-auth-clients", "no"]
    with redis_server(fresh, *options):
        url = f"rediss://localhost:{port}"
        tier = RemoteTier(RemoteConfig(url=url, ca_file=certificate))
        assert write(tier, "a") is WriteOutcome.STORED and read(tier, "a") == content("a")
        tier.close()
        stranger = RemoteTier(RemoteConfig(url=url))
        with pytest.raises(OSError):
            read(stranger, "a")
        stranger.close()
