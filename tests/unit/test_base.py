"""Settings, errors, units, sampling parameters: refused loudly, with what is valid."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from stepwell.base import errors
from stepwell.base.config import Config, describe_settings, load_config
from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError, InvalidParameter, StepwellError
from stepwell.base.sampling import SamplingParams
from stepwell.base.secrets import redact_url
from stepwell.base.units import format_bytes, format_seconds, parse_bytes


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "stepwell.toml"
    path.write_text(text)
    return path


def test_file_then_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "[cache]\nblock_size = 32\n[server]\nport = 9000\nshutdown_grace = 5\n")
    config = load_config(path, {"server.port": 9001, "server.host": None})

    assert config.cache.block_size == 32
    assert config.server.port == 9001
    assert config.server.host == Config().server.host
    assert config.server.shutdown_grace == 5.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[cache]\nblok_size = 1", "block_size"),
        ("[cash]\nx = 1", "cache"),
        ("cache = 1", r"\[cache\]"),
        ("[cache]\nblock_size = '16'", "integer"),
        ("[cache]\nblock_size = true", "integer"),
        ("[cache]\nblock_size = 12", "power of two"),
        ("[cache]\npool = 'much'", "2GiB"),
        ("[model]\ndevice = 'tpu'", "cuda"),
        ("[server]\nport = 70000", "65535"),
        ("[server]\napi_keys = [1]", "list of strings"),
        ("[scheduler]\nmax_sequences = 0", "at least 1"),
        ("[cache", "TOML"),
    ],
)
def test_a_wrong_setting_says_what_is_valid(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(write(tmp_path, text))


def test_secrets_are_in_no_repr_and_no_message(tmp_path: Path) -> None:
    config = load_config(
        overrides={"tiers.remote": "redis://:hush@host", "server.api_keys": ["ada:hush"]}
    )
    assert "hush" not in repr(config)
    for text in ("[tiers]\nremote = ['redis://:hush@host']", "[server]\napi_keys = 'ada:hush'"):
        with pytest.raises(ConfigError) as refused:
            load_config(write(tmp_path, text))
        assert "hush" not in str(refused.value) and "string" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://me:hush@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://[::1]:6379?password=hush", "rediss://[::1]:6379?***"),
        ("unix://:hush@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("redis://:hu/sh@host", "***"),
        ("redis://:hu@sh@host", "***"),
        ("redis://host/0?password=hu@sh", "***"),
        (":hush@host", "***"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.toml")


def test_every_setting_is_described() -> None:
    assert all(all(row) for row in describe_settings())


def test_error_tree_in_the_docstring_is_the_one_in_the_code() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    classes = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, StepwellError) and value is not StepwellError
    }
    assert set(drawn) == classes
    assert len(drawn) == len(classes)
    codes = [getattr(errors, name).code for name in classes]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"min_tokens": 5, "max_tokens": 3}, "min_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {1: 101}}, "logit_bias"),
        ({"stop": ("",)}, "stop"),
        ({"stop": ("a",) * 17}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"top_k": -1}, "top_k"),
    ],
)
def test_sampling_refuses_and_names_the_field(settings: dict, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(**settings)
    assert caught.value.param == param


def test_units() -> None:
    assert parse_bytes("2GiB") == parse_bytes("2g") == 2 << 30
    assert parse_bytes("1.5 KiB") == 1536
    assert format_bytes(1536) == "1.5 KiB"
    assert format_seconds(0.0123) == "12.3 ms"


def test_decision_keeps_what_was_measured() -> None:
    decision = Decision("x", "y", "because", predicted=1.0).with_actual(2.0)
    assert decision.as_dict()["actual"] == 2.0
    assert decision.as_dict()["predicted"] == 1.0
