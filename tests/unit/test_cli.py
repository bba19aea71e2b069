"""The command line: help, settings, errors and exit codes, offline verbs over a fake engine."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import types

import pytest

pytest.importorskip("typer")

from stepwell.base.config import describe_settings
from stepwell.base.errors import ConfigError
from stepwell.cli import main as cli
from stepwell.cli.options import make_config
from tests.api.fake_engine import FakeEngine

INSTALLED = cli.Verbs(name="x").list_commands(None)
OWN = [verb for verb in INSTALLED if verb != "bench"]


@pytest.fixture
def run(monkeypatch, capsys):
    """run("verb", ...) -> (exit code, stdout, stderr)"""

    def call(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["stepwell", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as caught:
            cli.run()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def engines(monkeypatch):
    """Verbs that load a model get a fake engine; returns those built."""
    built = []

    def build_engine_loop(config, *, progress=None):
        built.append(FakeEngine())
        return built[-1]

    loop = types.ModuleType("stepwell.engine.loop")
    loop.build_engine_loop = build_engine_loop
    monkeypatch.setitem(sys.modules, "stepwell.engine.loop", loop)
    build = types.ModuleType("stepwell.engine.build")
    build.resolve_only = lambda config: []
    monkeypatch.setitem(sys.modules, "stepwell.engine.build", build)
    return built


@pytest.mark.parametrize("verb", OWN)
def test_each_help_has_an_example(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0 and f"Usage: stepwell {verb}" in out
    assert re.search(rf"Example:\s+stepwell {verb}", out)


def test_help_lists_the_verbs_without_heavy_imports():
    code = (
        "import sys; sys.argv = ['stepwell', '--help']\n"
        "from stepwell.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as error: assert not error.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'uvicorn', 'httpx', 'numba'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for verb in INSTALLED:
        assert verb in result.stdout


def test_version(run):
    assert run("--version")[1].strip() == json.loads(run("version", "--json")[1])["stepwell"]
    assert "python" in run("version")[1]


def test_config_lists_every_setting(run):
    code, out, _ = run("config")
    rows = json.loads(run("config", "--json")[1])
    assert code == 0 and len(rows) == len(describe_settings())
    assert all(row["setting"] in out for row in rows)


def test_config_check(run, tmp_path):
    file = tmp_path / "stepwell.toml"
    file.write_text('[cache]\nblock_size = 32\n[server]\napi_keys = ["ada:secret"]\n')
    code, out, _ = run("config", "--check", str(file))
    assert code == 0 and "cache.block_size" in out and "secret" not in out
    shown = json.loads(run("config", "--check", str(file), "--json")[1])
    assert shown["set"] == {"cache.block_size": 32, "server.api_keys": "1 keys"}
    file.write_text('[tiers]\nremote = "redis://me:secret@host/0"\n')
    for arguments in ((), ("--json",)):
        out = run("config", "--check", str(file), *arguments)[1]
        assert "redis://***@host/0" in out and "secret" not in out
    file.write_text("[cache]\nblock_sise = 32\n")
    code, _, err = run("config", "--check", str(file))
    assert code == 2 and "invalid_config" in err and "block_size" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "--host", "0.0.0.0"), "no API key"),
        (("serve", "--set", "cache.block=1"), "block_size"),
        (("serve", "--set", "cache.block_size"), "section.key=value"),
        (("serve", "--set", "cache.block_size=many"), "integer"),
        (("serve", "--device", "tpu"), "cuda"),
        (("serve", "--config", "/nonexistent.toml"), "cannot read"),
        (("generate", "-i", "/nonexistent.jsonl"), "cannot read"),
        (("generate",), "no prompt"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_2(run, arguments, words):
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert len(err.strip().splitlines()) == 1
    assert "error [invalid_config]" in err and words in err


@pytest.mark.parametrize("arguments", [("srve",), ("serve", "--prot", "1"), ("chat", "a", "b")])
def test_wrong_usage_exits_2(run, arguments):
    code, _, err = run(*arguments)
    assert code == 2 and "stepwell" in err


def test_failures_exit_1(run):
    code, _, err = run("chat", "--url", "http://127.0.0.1:9/v1")
    assert code == 1 and "server_unreachable" in err


def test_set_reads_values_by_their_type():
    config = make_config(
        settings=[
            "cache.pool=1GiB",
            "server.port=0",
            "model.name=7",
            "cache.prefix_caching=false",
            "server.api_keys=a:b,c:d",
            "server.request_timeout=5",
        ],
        flags={"server.port": 9, "model.dtype": None},
        model="m",
    )
    assert (config.cache.pool, config.server.port, config.model.name) == ("1GiB", 9, "7")
    assert config.server.api_keys == ("a:b", "c:d") and not config.cache.prefix_caching
    assert config.server.request_timeout == 5.0 and config.model.path == "m"
    with pytest.raises(ConfigError):
        make_config(settings=["server.port=[1"])
    for wrong in ("server.api_keys=[hush", "tiers.remote:redis://:hush@host"):
        with pytest.raises(ConfigError) as refused:
            make_config(settings=[wrong])
        assert "hush" not in str(refused.value)


def test_generate(run, engines):
    code, out, _ = run("generate", "-p", "hi", "-p", "ho", "--max-tokens", "4")
    assert (code, out) == (0, "abcd\nabcd\n")
    assert engines[0]._thread.is_alive() is False
    code, out, _ = run("generate", "--chat", "--json", "--max-tokens", "2", stdin="from stdin")
    assert json.loads(out)["choices"][0]["message"]["content"] == "ab"


def test_generate_jsonl_keeps_order_and_reports_failures(run, engines, tmp_path):
    bodies = [{"prompt": "a", "max_tokens": i % 7 + 1} for i in range(150)]
    bodies[3] = {"prompt": "x" * 900}
    bodies[5] = {"prompt": "a", "bogus": 1}
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps(body) for body in bodies))
    code, out, err = run("generate", "-i", str(source), "-o", str(target))
    replies = [json.loads(line) for line in target.read_text().splitlines()]
    assert code == 1 and out == "" and "2 of 150" in err
    assert replies[3]["error"]["code"] == "context_length_exceeded"
    assert replies[5]["error"]["code"] == "invalid_parameter"
    for i, reply in enumerate(replies):
        if i not in (3, 5):
            assert reply["usage"]["completion_tokens"] == i % 7 + 1


def test_chat_with_piped_input(run, engines):
    code, out, err = run(
        "chat", "--max-tokens", "3", stdin=f"hi\n\n{'x' * 900}\nagain\n/reset\nhi\n/exit\nnever\n"
    )
    assert (code, out) == (0, "abc\nabc\nabc\n")
    assert err.count("cached") == 3 and "context_length_exceeded" in err
    prompts = [engines[0].tokenizer.decode(r.prompt_token_ids) for r in engines[0].submitted]
    assert prompts[1] == "user: hi\nassistant: abc\nuser: again\n"
    assert prompts[2] == prompts[0] == "user: hi\n"


def test_dry_run_prints_decisions(run, engines):
    assert json.loads(run("serve", "--dry-run", "--json")[1]) == []
    code, _, err = run("serve", "--dry-run", "--host", "0.0.0.0")
    assert code == 2 and "API key" in err
    assert run("serve", "--dry-run", "--sagemaker")[0] == 0
