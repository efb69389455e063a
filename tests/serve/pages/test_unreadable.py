"""A job that this version cannot read, on the pages: it is shown with a sentence, and the others beside it."""

from sqlalchemy import text

from bot.jobs.migration import opened
from bot.jobs.office import Office
from bot.jobs.queues import JOBS, Queues
from tests.jobs.orders import order

from .conftest import TOKEN, csrf_of


def test_a_job_that_cannot_be_read_is_shown_beside_the_others(serve, client, tmp_path):
    database = opened(f"sqlite:///{tmp_path / 'bot.db'}")
    queues = Queues(database)
    queues.prepare({JOBS: 1})
    office = Office(database, queues)
    bad, good = (office.enqueue(order(f"ada/{name}")).order.job.key for name in ("bad", "good"))
    spoil = text("UPDATE merge_bot_orders SET document = '{}' WHERE job = :id")
    database.write(lambda connection: connection.execute(spoil, {"id": bad}))
    served = serve(office)
    form = csrf_of(client.get(f"{served.url}/sign-in").text)
    client.post(f"{served.url}/sign-in/token", data={"csrf": form, "token": TOKEN})
    listed = client.get(served.url)
    assert listed.status_code == 200
    assert f"/jobs/{bad}" in listed.text
    assert "ada/good" in listed.text
    shown = client.get(f"{served.url}/jobs/{bad}")
    assert shown.status_code == 200
    assert "cannot be read by this version" in shown.text
    assert client.get(f"{served.url}/jobs/{good}").status_code == 200
    queues.close()
    database.close()
