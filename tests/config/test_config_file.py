"""merge-bot.toml: what it says, what is wrong with it and where, and that no secret of it is ever told."""

import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from bot.config import words
from bot.config.lines import Lines
from bot.config.load import check, load
from bot.config.mistakes import table_of
from bot.config.models import Config, LimitKeys
from bot.errors import InputError
from bot.terms import VARIABLES, Limits
from tests.config.reference import DOCS, example
from tests.config.reference import written as rewritten

SECRET = "the-hub-and-we-alone-know-this"


@pytest.fixture
def written(tmp_path):
    def write(text: str, *, mode: int = 0o600) -> Path:
        path = tmp_path / "merge-bot.toml"
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    return write


# what it says


def test_without_a_file_the_defaults_hold():
    config = load(None, {})
    assert config.server.port == 8000
    assert config.database == f"sqlite:///{Path.cwd() / 'state' / 'merge-bot.sqlite'}"
    assert config.limits.limits() == Limits()
    assert config.hub.webhook_secret is None


def test_a_variable_comes_before_the_file(written):
    file = written('[server]\nport = 1\nhost = "::1"\n[worker]\nqueues = ["a"]\n')
    environ = {
        "MERGE_BOT_SERVER__PORT": "2",
        "MERGE_BOT_WORKER__QUEUES": '["b", "c"]',
        "MERGE_BOT_TIMEOUT": "3",
    }
    config = load(file, environ)
    assert (config.server.port, config.server.host, config.worker.queues) == (2, "::1", ("b", "c"))


def test_the_database_is_the_variables(written):
    url = "postgresql://bot:word@db.example/merges"
    config = load(written("[server]\n"), {"MERGE_BOT_DATABASE_URL": url})
    assert config.database == url
    assert "word" not in repr(config) + str(config.model_dump())
    assert dict(words.in_force(config))["database"] == "postgresql://db.example/merges"


def test_the_limits_of_every_command_hold_for_the_service_too(written):
    file = written('[limits]\nrank = 8\nbase_bytes = "1.5GB"\ntensors = "off"\n')
    limits = load(file, {"MERGE_BOT_MAX_RANK": "64", "MERGE_BOT_MAX_COST": "5"}).limits.limits()
    assert (limits.rank, limits.base_bytes, limits.tensors, limits.cost) == (64, 1_500_000_000, None, 5)
    assert set(LimitKeys.model_fields) == set(VARIABLES)


def test_paths_start_where_the_file_lies(written, tmp_path):
    (tmp_path / "hub").write_text(f"{SECRET}\n")
    config = load(written('[server]\nstate = "s"\n[hub]\nwebhook_secret_file = "hub"\n'), {})
    assert config.server.state == tmp_path / "s"
    assert config.hub.webhook_secret == SecretStr(SECRET)
    assert SECRET not in repr(config)


def test_a_secret_may_be_a_file_that_a_variable_names(tmp_path):
    (tmp_path / "url").write_text("https://hooks.example/1")
    config = load(None, {"MERGE_BOT_DATABASE_URL_FILE": str(tmp_path / "url")})
    assert config.database == "https://hooks.example/1"


def test_the_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load(None, {}).server.port = 1


def test_records_made_by_hand_read_no_environment(monkeypatch):
    monkeypatch.setenv("MERGE_BOT_SERVER__PORT", "1")
    assert Config().server.port == 8000


# what is wrong with it


@pytest.mark.parametrize(
    ("text", "line", "key", "advice"),
    [
        ("[server]\nhost = 'x'\nprt = 1\n", 3, "server.prt", "Did you mean `port`?"),
        ("[servr]\nport = 1\n", 1, "servr", "Did you mean `server`?"),
        ("[hub]\nport = 1\n", 2, "hub.port", "It belongs to [server]."),
        ("port = 1\n", 1, "port", "It belongs to [server]."),
        ("[server]\nport = 70000\n", 2, "server.port", "less than or equal to 65535"),
        ("[server]\nport = 'x'\n", 2, "server.port", "valid integer"),
        ("[server]\npublic_url = 'bot.example'\n", 2, "server.public_url", "it takes https://…"),
        ("[server]\npublic_url = 'https://h/jobs'\n", 2, "server.public_url", "/bot/jobs"),
        ("[defaults]\npublish = 'hubpr'\n", 2, "defaults.publish", "Did you mean `hub_pr`?"),
        ("[defaults]\nrunner = 'gpu'\n", 2, "defaults.runner", "pool:QUEUE"),
        ("[defaults]\nrunner = 'pool:gpu'\n", 2, "defaults.runner", "worker.queues has none"),
        ("[defaults]\ndestination = '{ownr}/x'\n", 2, "defaults.destination", "it takes owner, name"),
        ("[defaults]\ndestination = '{owner'\n", 2, "defaults.destination", "no template"),
        ("[defaults]\ndestination = 'merged-{name}'\n", 2, "defaults.destination", "owner/name"),
        ("[[watch]]\nowners = ['a']\n\n[[watch]]\n# two\nowners = [\n  'b/c',\n]\n", 6, "watch[2].owners[1]", "user"),
        ("[[watch]]\nrepositories = ['acme']\n", 2, "watch[1].repositories[1]", "owner/name"),
        ("[[watch]]\nrepositories = ['a b/*']\n", 2, "watch[1].repositories[1]", "owner/name"),
        ("[[watch]]\nrepositories = ['!acme/*']\n", 1, "watch[1]", "Add `owners`"),
        ("[[watch]]\nowners = ['a']\nvalidaton = 'full'\n", 3, "watch[1].validaton", "`validation`"),
        ("[[runners]]\nup_to_gb = 8\n", 1, "runners[1].runner", "Add it."),
        ("[[runners]]\nrunner = 'hf-jobs'\n", 2, "runners[1].runner", "Set `image` in [hf_jobs]"),
        ("[[runners]]\nrunner = 'auto'\n", 1, "runners[1]", "Name a runner."),
        ("[[runners]]\nrunner = 'local'\n[[runners]]\nup_to_gb = 8\nrunner = 'local'\n", 3, "runners[2]", "by size"),
        ("[limits]\nbase_bytes = '12 apples'\n", 2, "limits.base_bytes", "500GB"),
        ("[limits]\nrank = 0\n", 2, "limits.rank", "greater than 0"),
        ("[[notify]]\non = ['published']\n", 1, "notify[1]", "url_file"),
        ("[[notify]]\nurl = 'https://h'\non = ['publshed']\n", 3, "notify[1].on[1]", "Did you mean `published`?"),
        ("[github]\napp_id = 1\n", 2, "github.app_id", "private_key_file"),
        ("[pages]\nstrangers = 'open'\n", 2, "pages.strangers", "read-only"),
        ("[pages]\noperator_token = 'short'\n", 2, "pages.operator_token", "openssl rand"),
        ("[polling]\nseconds = 1\n", 2, "polling.seconds", "greater than or equal to 10"),
        ("[hub]\nwebhook_secret_file = '/nowhere/at-all'\n", 2, "hub.webhook_secret_file", "the secret and nothing"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_its_key_and_the_nearest_right_one(written, text, line, key, advice):
    file = written(text)
    first = check(file, {}).mistakes[0]
    assert (first.line, first.key) == (line, key)
    assert advice in f"{first.sentence} {first.advice}"
    assert f"`{key}`" in first.sentence
    with pytest.raises(InputError) as raised:
        load(file, {})
    assert str(raised.value).startswith(f"{file}, line {line}: ")


def test_all_mistakes_are_found_at_once_in_the_order_of_the_file(written):
    text = "[server]\nport = 'x'\n[hub]\nusr = 'a'\n[pages]\nstrangers = 'no'\n"
    assert [m.line for m in check(written(text), {}).mistakes] == [2, 4, 6]
    with pytest.raises(InputError, match=r"\(2 more\)"):
        load(written(text), {})


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"MERGE_BOT_SERVER__PORT": "x"}, "MERGE_BOT_SERVER__PORT: `server.port` should be a valid integer."),
        ({"MERGE_BOT_SERVER__PRT": "1"}, "MERGE_BOT_SERVER__PRT: There is no key `server.prt`."),
        ({"MERGE_BOT_SERVR__PORT": "1"}, "MERGE_BOT_SERVR__PORT: There is no key `servr`."),
        ({"MERGE_BOT_WORKER__QUEUES": "a,b"}, "MERGE_BOT_WORKER__QUEUES: A list in a variable is JSON"),
        ({"MERGE_BOT_MAX_RANK": "x"}, "MERGE_BOT_MAX_RANK: `limits.rank` should be a valid integer."),
    ],
)
def test_a_variable_that_is_wrong_is_named(written, environ, said):
    with pytest.raises(InputError) as raised:
        load(written("[server]\nport = 1\n"), environ)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[server]\nport =\n", "line 2 is no TOML"),
        (b"[server]\nport = 1\nport = 2\n", "no TOML"),
        (b"[server]\n\xff\n", "line 2: that is no text in UTF-8"),
        (b"#" * 2**21, "larger than a MiB"),
        (b"a = " + b"[" * 50_000, "no TOML"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_configuration_at_all_is_said(tmp_path, data, said):
    file = tmp_path / "merge-bot.toml"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError, match=said):
        load(file, {})


def test_the_line_of_a_key_is_where_its_statement_begins():
    text = 'top = 1\n\n# c\n[a]\nx = """\n[a]\ny = 1\n"""\ny = [\n 1,\n]\n[[l]]\nz = 1\n[[l]]\nz.q = 2\n'
    lines = Lines(text)
    wanted = {
        ("top",): 1,
        ("a",): 4,
        ("a", "x"): 5,
        ("a", "y"): 9,
        ("l", 0, "z"): 13,
        ("l", 1): 14,
        ("l", 1, "z"): 15,
    }
    assert {path: lines.of_key(path) for path in wanted} == wanted
    assert lines.of_key(("a", "nope")) is None


# secrets


@pytest.mark.parametrize(
    "text",
    [
        f"[hub]\nwebhook_secret = ['{SECRET}']\n",
        f"[hub]\nwebhook_secrt = '{SECRET}'\n",
        f"[hub]\nwebhook_secret = '{SECRET}'\nwebhook_secret_file = 'x'\n",
        f"[hub]\nwebhook_secret = '{SECRET}\n",
        f"[hub]\nwebhook_secret = '{SECRET}' 1\n",
        f"database_url = 'postgresql://bot:{SECRET}@h/x'\n[server]\nport = 'x'\n",
        f"[server]\nport = 'x'\n[pages]\noperator_token = '{SECRET}'\n",
    ],
)
def test_no_mistake_tells_a_secret(written, text):
    with pytest.raises(InputError) as raised:
        load(written(text), {})
    error = raised.value
    chain = [error, error.__cause__, error.__context__]
    assert SECRET not in "".join(f"{e!r}{e}" for e in chain if e is not None) + error.advice


def test_a_secret_that_others_can_read_is_pointed_out(written, tmp_path):
    (tmp_path / "hub").write_text(SECRET)
    (tmp_path / "hub").chmod(0o644)
    remarks = check(written("[hub]\nwebhook_secret_file = 'hub'\n"), {}).remarks
    assert [f"chmod 600 {tmp_path / 'hub'}" in r for r in remarks].count(True) == 1
    (tmp_path / "hub").chmod(0o600)
    assert "chmod" not in " ".join(check(written("[hub]\nwebhook_secret_file = 'hub'\n"), {}).remarks)
    inline = written(f"[hub]\nwebhook_secret = '{SECRET}'\n", mode=0o640)
    assert f"chmod 600 {inline}" in " ".join(check(inline, {}).remarks)
    assert "chmod" not in " ".join(check(written("[server]\n", mode=0o644), {}).remarks)


@pytest.mark.parametrize(("more", "said"), [("", True), ("token = 'github-token'\n", False)])
def test_webhooks_of_github_that_nobody_could_answer_are_pointed_out(written, more, said):
    file = written(f"[github]\nwebhook_secret = '{SECRET}'\nrepositories = ['a/*']\n{more}")
    assert ("Nobody answers on GitHub" in " ".join(check(file, {}).remarks)) == said


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 70_000])
def test_a_file_that_can_be_no_secret_is_a_mistake(written, tmp_path, content):
    (tmp_path / "hub").write_bytes(content)
    assert check(written("[hub]\nwebhook_secret_file = 'hub'\n"), {}).mistakes[0].line == 2


# the example and the reference


def test_the_example_is_right(written):
    checked = check(written(example()), {})
    assert checked.mistakes == ()
    assert checked.config is not None
    assert [rule.enabled for rule in checked.config.watch] == [False, True, True]


def test_what_is_commented_out_in_the_example_is_right_too(written, tmp_path):
    text = re.sub(r"^# (?=\w+ = |\[\[)", "", example(), flags=re.MULTILINE)
    for name in re.findall(r'_file = "(.*?)"', text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{SECRET} {name}")
    checked = check(written(text), {"MERGE_BOT_DATABASE_URL": ""})
    assert checked.mistakes == ()
    assert checked.config is not None
    assert checked.config.notify[0].on == ("published", "failed")


def test_the_example_shows_every_table():
    tables = {name for name, field in Config.model_fields.items() if table_of(field)}
    assert tables == set(re.findall(r"^(?:# )?\[+(\w+)\]", example(), re.MULTILINE))


def test_the_docs_hold_the_example_and_every_key():
    docs = DOCS.read_text(encoding="utf-8")
    assert rewritten(docs) == docs  # `make config` writes them anew
    assert example() in docs
    assert words.reference() in docs


def test_every_key_says_what_it_is():
    def silent(model: type[BaseModel]) -> list[str]:
        tables = {name: table_of(field) for name, field in model.model_fields.items()}
        own = [
            name for name, table in tables.items() if not table and not model.model_fields[name].description
        ]
        return own + [f"{name}.{key}" for name, table in tables.items() if table for key in silent(table)]

    assert silent(Config) == []


def test_nobody_but_us_decides_what_is_read(written, tmp_path, monkeypatch):
    """A .env file or a secrets folder beside it is not looked at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("MERGE_BOT_SERVER__PORT=1\n")
    assert load(written("[server]\n"), {}).server.port == 8000
    assert os.environ.get("MERGE_BOT_SERVER__PORT") is None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("owners = ['a', 'b']", True),
        ("repositories = ['team-*/lora-*']", True),
        ("repositories = ['a/x-*', 'b/x-*']", True),
        ("owners = ['a']\nrepositories = ['A/x', '!b/*']", False),
    ],
)
def test_results_of_several_owners_in_one_place_are_remarked(written, rule, said):
    file = written(f"[[watch]]\n{rule}\ndestination = 'acme/{{name}}-on-{{base_name}}'\n")
    assert ("several owners" in " ".join(check(file, {}).remarks)) == said
    own = written(f"[[watch]]\n{rule}\ndestination = 'acme/{{owner}}-{{name}}'\n")
    assert "several owners" not in " ".join(check(own, {}).remarks)
