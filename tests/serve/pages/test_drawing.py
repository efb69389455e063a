"""Pictures are drawn beside the pages: strangers who look at many reports keep nobody waiting."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from bot.serve.pages import drawing
from tests.jobs.memory import MemoryDesk

from .filled import an_order, published


@pytest.fixture
def slowly(monkeypatch):
    """Drawing takes as long as the test wants; what comes back are the reports that were drawn."""
    done, drawn = threading.Event(), []

    def draw(found, *, home):
        drawn.append(found)
        done.wait(10)
        return {"merge-report/weights.png": b"PNG"}

    monkeypatch.setattr(drawing, "_drawn", draw)
    yield done, drawn
    done.set()


def test_who_waits_for_pictures_keeps_no_page_from_others(serve, slowly):
    done, drawn = slowly
    desk, outcome = MemoryDesk(), published()
    keys = [desk.enqueue(an_order(f"alice/a{n}")).order.job.key for n in range(drawing.WAITING + 1)]
    for key in keys:
        desk.end(key, outcome)
    served = serve(desk)
    with ThreadPoolExecutor(60) as crowd, httpx2.Client(base_url=served.url, timeout=20) as client:
        waiting = [crowd.submit(client.get, f"/jobs/{keys[n % drawing.WAITING]}/report") for n in range(60)]
        until = time.monotonic() + 10
        while not drawn and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.5)
        with httpx2.Client(base_url=served.url, timeout=5) as other:
            assert other.get("/").status_code == 200
            refused = other.get(f"/jobs/{keys[-1]}/report")
        assert refused.status_code == 503
        assert "Pictures are being drawn." in refused.text
        assert len(drawn) == 1
        done.set()
        assert {each.result().status_code for each in waiting} == {200}
        assert len(drawn) == drawing.WAITING  # each once
        assert client.get(f"/jobs/{keys[0]}/report").status_code == 200
        assert len(drawn) == drawing.WAITING
