"""`python -m tests.api.serve_fake SECONDS_PER_STEP GRACE [freeze]`: a server process."""

from __future__ import annotations

import sys

from stepwell.base.config import load_config
from stepwell.server.lifecycle import Listener, check_settings, run_server
from tests.api.fake_engine import FakeEngine


def main():
    engine = FakeEngine(step_seconds=float(sys.argv[1]), freeze="freeze" in sys.argv)
    config = load_config(None, {"server.port": 0, "server.shutdown_grace": float(sys.argv[2])})
    run_server(
        engine,
        config=config,
        keys=check_settings(config),
        listener=Listener("127.0.0.1", 0),
        on_ready=lambda url: print(url, flush=True),
    )


if __name__ == "__main__":
    main()
