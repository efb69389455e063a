"""The job of .github/workflows/selftest.yml, step by step, with the action that it uses."""

import pytest

from tests.action.runner import ROOT, Runner

WORKFLOW = ROOT / ".github/workflows/selftest.yml"
SETUP = {"actions/checkout", "actions/setup-python", "Install what makes the tiny models"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_selftest_keeps_its_promises(tmp_path, path):
    machine = Runner(tmp_path, environment={"PATH": path, "OMP_NUM_THREADS": "1"}, left_out=SETUP)
    ran = machine.job(WORKFLOW, "action", inputs={"validate": "tensors"})
    assert not ran.failed, machine.log
    assert ran.steps[-1] == "Stop the Hub"
    assert machine.log.count("✓") == 6
    assert "BROKEN" not in machine.log
    assert machine.summary
