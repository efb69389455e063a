"""What can be read off the Dockerfile. `make image-test` builds and runs it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_it_names_what_it_is_built_on_and_runs_as_nobody_special():
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == [
        "nvidia/cuda:13.0.2-base-ubuntu24.04",
        "python:3.12-slim-trixie",
        "${VARIANT}",
    ]
    assert re.findall(r"^USER (.*)", DOCKERFILE, re.MULTILINE) == ["1001"]
    assert 'ENTRYPOINT ["merge-bot"]' in DOCKERFILE


def test_all_that_it_copies_is_let_in_and_nothing_else():
    copied = {
        name for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    let_in = set(re.findall(r"^!(.*)", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    assert copied == let_in
