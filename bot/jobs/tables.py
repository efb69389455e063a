"""The tables of the service, all with the prefix merge_bot_: what they are called and what lies in them.

Times are seconds since 1970. A job's row is narrow, so that lists and progress are quick; its documents lie beside it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

PREFIX = "merge_bot_"
metadata = MetaData()
_SERIAL = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself there
_JOB = f"{PREFIX}jobs.id"
_ID = Text().with_variant(Text(collation="C"), "postgresql")  # so that the index knows how an id begins


def _name(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


settings = Table(  # `schema`: the version of these tables
    f"{PREFIX}settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

inbox = Table(  # deliveries; a finished one stays for a while without its body, so that it is known when it comes again
    f"{PREFIX}inbox",
    metadata,
    Column("number", _SERIAL, Identity(), primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("source", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("received", Double, nullable=False),
    Column("taken", Double),
    Column("finished", Double),
)
Index(
    f"{PREFIX}inbox_waiting",
    inbox.c.number,
    sqlite_where=inbox.c.finished.is_(None),
    postgresql_where=inbox.c.finished.is_(None),
)
Index(f"{PREFIX}inbox_finished", inbox.c.finished)

jobs = Table(
    f"{PREFIX}jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stage", Text, nullable=False),
    Column("done", BigInteger, nullable=False, server_default="0"),
    Column("total", BigInteger, nullable=False, server_default="0"),
    _name("make"),
    _name("runner"),
    _name("worker"),
    _name("host"),
    _name("requester"),
    Column("search", Text, nullable=False),  # lower case: adapter, base, destination, who asked
    Column(
        "bytes", BigInteger, nullable=False, server_default="0"
    ),  # of the model that is made, once planned
    Column("created", Double, nullable=False),  # this attempt
    Column("started", Double),
    Column("ended", Double),
    Column("newest_line", Integer, nullable=False, server_default="0"),
)
Index(f"{PREFIX}jobs_created", jobs.c.created)
Index(f"{PREFIX}jobs_state", jobs.c.state, jobs.c.created)
Index(f"{PREFIX}jobs_requester", jobs.c.requester, jobs.c.created)
Index(f"{PREFIX}jobs_make", jobs.c.make)
Index(f"{PREFIX}jobs_ended", jobs.c.ended)

orders = Table(
    f"{PREFIX}orders",
    metadata,
    Column("job", _ID, ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True),
    Column("document", Text, nullable=False),
)

outcomes = Table(  # `document` is what lists show, `details` plan, report and diagnosis
    f"{PREFIX}outcomes",
    metadata,
    Column("job", _ID, ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True),
    Column("document", Text, nullable=False),
    Column("details", Text, nullable=False),
)

lines = Table(
    f"{PREFIX}lines",
    metadata,
    Column("job", _ID, ForeignKey(_JOB, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("text", Text, nullable=False),
)

makes = Table(  # merges that several jobs may wait for: jobs.make is `id-attempt`
    f"{PREFIX}makes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("ended", Double),
)

workers = Table(  # `beat` counts up: one that stands still is gone, whatever the clocks say
    f"{PREFIX}workers",
    metadata,
    Column("executor", Text, primary_key=True),
    Column("beat", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
)

seen = Table(  # what watch saw: `kind` and `name` are its own
    f"{PREFIX}seen",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("at", Double, nullable=False),
)
