"""What a job of these tests finds on its machine."""

import os
import sys

import pytest

from tests.action.runner import ROOT


@pytest.fixture
def path(tmp_path):
    """A PATH with this checkout's merge-bot, as our container image has one."""
    command = tmp_path / "bin/merge-bot"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m bot "$@"\n')
    command.chmod(0o755)
    return f"{command.parent}:{os.environ['PATH']}"
