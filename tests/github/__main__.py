"""`python -m tests.github`: the fake GitHub on its own; prints its URL and one token per user, serves until stopped.

The first user owns a repository, `NAME/adapters`, with a GitHub PR that adds an adapter's config.
"""

import argparse
import signal
import threading

from .server import FakeGitHub

CONFIG = '{"peft_type": "LORA", "base_model_name_or_path": "acme/base", "r": 8}'


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.github", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--user", action="append", default=[], metavar="NAME")
    parser.add_argument("--verbose", action="store_true", help="log requests to stderr")
    options = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with FakeGitHub(port=options.port, verbose=options.verbose) as github:
        print(github.url, flush=True)
        for name in options.user:
            print(github.add_user(name), flush=True)
        for owner in options.user[:1]:
            github.add_repo(f"{owner}/adapters")
            github.open_pull(f"{owner}/adapters", {"adapter/adapter_config.json": CONFIG})
        stopped.wait()


if __name__ == "__main__":
    main()
