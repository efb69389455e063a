"""A merge from Hub to Hub with less disk than the model takes: the same bytes, proven shard by shard."""

import hashlib
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants, snapshot_download

from bot import publishing
from bot.clients.hub_parcel import Parcel
from bot.errors import HostError
from bot.plan import shardwise
from bot.wording import duration
from tests.e2e import desk, hub, models, processes, tree
from tests.tiny.adapters import live, save_adapter
from tests.tiny.models import load, logits, save_base

__all__ = ["desk", "hub", "models", "processes"]
BASE, ADAPTER = "acme/sharded", "alice/sharded-lora"
FAST = ["--validate", "tensors"]
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
TOUCHED = [f"model.layers.{n}.{m}_proj" for n in (0, 1) for m in ("self_attn.q", "mlp.up", "mlp.down")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory, hub):
    """A llama in several shards, of which the adapter touches some; both on the Hub."""
    root = tmp_path_factory.mktemp("sharded")
    base = save_base(root / "base", "llama", shards=6, dtype="bfloat16")
    adapter = save_adapter(root / "adapter", base, config=LORA | {"target_modules": TOUCHED}, base_name=BASE)
    (adapter / "README.md").unlink()
    hub.commit(BASE, base)
    hub.commit(ADAPTER, adapter)
    return base, adapter


def plan_of(desk, to, adapter=ADAPTER):
    return desk.done("plan", adapter, "--to", to)["traffic"]


def run(desk, to, *more, adapter=ADAPTER, call=None):
    """A run that may take no more disk than the least that does."""
    limit = plan_of(desk, to, adapter)["least_bytes"]
    desk.hub.clear_requests()
    return (call or desk.done)("run", adapter, "--to", to, *FAST, "--scratch-limit", limit, *more)


def killed(desk, to):
    """A run that is killed in the middle of its shards."""
    started = run(desk, to, call=lambda *given: desk.start(*given, trap="shards"))
    started.trapped()
    started.send(signal.SIGKILL)
    started.end()


def digests(hub, repo_id):
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in hub.files(repo_id).items()}


def weights(found):
    return {n: d for n, d in found.items() if n.endswith(".safetensors") or n.startswith(("config", "model"))}


def verdicts(document):
    return {check["name"]: check["verdict"] for check in document["report"]["checks"]}


def shards_sent(desk):
    """How many shards the Hub's storage was sent."""
    return sum(r.method == "PUT" and "/lfs/" in r.path for r in desk.hub.requests)


def shards_fetched(desk):
    """How many shards the Hub has sent whole."""
    shards = {n for n in desk.hub.files(BASE) if n.endswith(".safetensors")}
    found = {r.path.split("?")[0] for r in desk.hub.requests if r.method == "GET" and r.status == 200}
    return len([path for path in found if path.rpartition("/")[2] in shards])


def least(desk, *more):
    return plan_of(desk, "alice/planned", *more)["least_bytes"]


def test_the_same_bytes_as_with_the_whole_model_on_the_disk(desk, sources):
    desk.done("run", ADAPTER, "--to", "alice/whole", *FAST)
    moved = plan_of(desk, "alice/little")
    done = run(desk, "alice/little")
    whole, little = digests(desk.hub, "alice/whole"), digests(desk.hub, "alice/little")
    assert weights(whole) == weights(little)
    assert whole.keys() == little.keys()
    found = verdicts(done)
    assert (found["changed"], found["untouched"], found["published"]) == ("passed", "passed", "skipped")
    stored = done["publication"]["checks"][0]
    assert (stored["name"], stored["verdict"]) == ("stored", "passed")
    assert not any(desk.scratch.iterdir())
    copied = moved["shards"] - shards_sent(desk)
    assert copied > 0  # the Hub copies what nothing changes in
    assert f"{copied} shard" in next(
        c["detail"] for c in done["report"]["checks"] if c["name"] == "untouched"
    )
    assert moved["copied_bytes"] + moved["up_bytes"] == sum(
        p.stat().st_size for n, p in desk.hub.files("alice/little").items() if n.endswith(".safetensors")
    )
    assert desk.done("verify", "alice/little")["verdict"] == "passed"


def test_a_plan_tells_the_time_at_the_rates_that_it_is_given(desk, sources):
    moved = plan_of(desk, "alice/planned")
    answer = desk("plan", ADAPTER, "--to", "alice/planned", "--rates", "1KB/100")
    assert answer.code == 0, answer.err
    told = answer.out
    assert f"about {duration(moved['up_bytes'] / 100)} at 1.0 kB/s down, 100 B/s up" in " ".join(told.split())
    wrong = desk("plan", ADAPTER, "--rates", "1KB/fast", "--json")
    assert (wrong.code, "'1KB/fast' is no rate" in wrong.error["sentence"]) == (2, True)


@pytest.mark.slow
def test_the_published_model_answers_as_base_and_adapter_do(desk, sources):
    base, adapter = sources
    desk.apart()
    done = run(desk, "alice/answers", "--validate", "full")
    found = {check["name"]: check for check in done["report"]["checks"]}
    assert found["modules"]["figure"].startswith(f"{len(TOUCHED)} of {len(TOUCHED)} layers alike")
    assert (found["logits"]["verdict"], "shard by shard" in found["logits"]["detail"]) == ("skipped", True)
    wanted = logits(live(base, adapter), desk.models.batch)
    assert torch.allclose(desk.plain("alice/answers"), wanted, atol=0.05, rtol=0.02)
    assert not torch.allclose(wanted, logits(load(base), desk.models.batch), atol=0.05, rtol=0.02)


def reloaded(document):
    return next(c for c in document["publication"]["checks"] if c["name"] == "reloaded")


@pytest.mark.slow
def test_on_request_it_is_fetched_and_loaded_afterwards(desk, sources):
    found = reloaded(run(desk, "alice/reloaded", "--reload", "always"))
    assert (found["verdict"], found["figure"]) == (
        "passed",
        f"LlamaForCausalLM, {len(TOUCHED)} of {len(TOUCHED)} changed tensors",
    )
    assert shards_fetched(desk) > 0
    assert reloaded(run(desk, "alice/not-reloaded"))["verdict"] == "skipped"


def test_what_came_back_is_held_against_the_digests_of_the_checks(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    right = {"a": hashlib.sha256(b"a").hexdigest()}
    assert (publishing._other(tmp_path, right), publishing._other(tmp_path, {"a": "0" * 64})) == (None, "a")


@pytest.mark.slow
def test_other_bytes_than_were_checked_are_taken_back(desk, sources, monkeypatch):
    monkeypatch.setattr("bot.publishing._other", lambda place, checked: "model.safetensors")
    limit = least(desk)
    given = (
        "run",
        ADAPTER,
        "--to",
        "alice/other",
        *FAST,
        "--scratch-limit",
        limit,
        "--reload",
        "always",
        "--json",
    )
    assert desk(*given).error["code"] == "publication-reloaded"


@pytest.mark.slow
def test_what_the_hub_declines_to_copy_is_sent(desk, sources):
    desk.hub.fault("lfs-files/duplicate", status=403)
    shards = plan_of(desk, "alice/declined")["shards"]
    run(desk, "alice/declined")
    assert shards_sent(desk) == shards


def spread(desk, tmp_path, architecture, *, targets, **options):
    """A base in many shards and an adapter that PEFT's own layers merge, on the Hub."""
    base = save_base(tmp_path / "base", architecture, shards=8, **options)
    save_adapter(tmp_path / "adapter", base, config=LORA | targets, base_name=f"acme/{architecture}-many")
    (tmp_path / "adapter" / "README.md").unlink()
    desk.hub.commit(f"acme/{architecture}-many", base)
    desk.hub.commit(f"alice/{architecture}-many", tmp_path / "adapter")
    return f"alice/{architecture}-many"


@pytest.mark.parametrize(
    ("architecture", "targets", "options"),
    [
        # a head that is untied starts from the embeddings, in another shard
        ("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, {"tie": True}),
        # experts that are stored one by one, and merged as one stack
        pytest.param(
            "mixtral",
            {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
            {},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_layers_that_lie_in_several_shards_are_merged_with_all_of_them(
    desk, tmp_path, architecture, targets, options
):
    adapter = spread(desk, tmp_path, architecture, targets=targets, **options)
    planned = desk.done("plan", adapter, "--to", f"{adapter}-little")
    assert (planned["way"], planned["traffic"]["obstacle"]) == ("layers", "")
    desk.done("run", adapter, "--to", f"{adapter}-whole", *FAST)
    done = run(desk, f"{adapter}-little", "--validate", "full", adapter=adapter)
    assert verdicts(done)["modules"] == "passed"
    whole, little = digests(desk.hub, f"{adapter}-whole"), digests(desk.hub, f"{adapter}-little")
    assert weights(whole) == weights(little)


@pytest.mark.slow
def test_a_base_in_a_folder_is_read_where_it_lies(desk, sources):
    base, adapter = sources
    given = ("run", adapter, "--base", base, *FAST)
    limit = desk.done("plan", adapter, "--base", base, "--to", "alice/local")["traffic"]["least_bytes"]
    desk.done(*given, "--to", "alice/local", "--scratch-limit", limit)
    desk.done(*given, "--to", "alice/local-whole")
    assert weights(digests(desk.hub, "alice/local")) == weights(digests(desk.hub, "alice/local-whole"))


@pytest.mark.slow
def test_a_hub_pr_is_filled_shard_by_shard(desk, sources):
    limit = desk.done("plan", ADAPTER, "--to", ADAPTER, "--pr")["traffic"]["least_bytes"]
    done = desk.done("run", ADAPTER, "--to", ADAPTER, "--pr", *FAST, "--scratch-limit", limit)
    published = desk.hub.files(ADAPTER, revision=f"refs/pr/{done['publication']['number']}")
    assert "adapter_config.json" not in published
    assert "model.safetensors.index.json" in published
    assert verdicts(done)["published"] == "skipped"


# killed, cancelled, and faults of the Hub


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_the_shards_that_are_missing(desk, sources):
    run(desk, "alice/unbroken")
    every = shards_sent(desk), shards_fetched(desk)
    killed(desk, "alice/resumed")
    assert digests(desk.hub, "alice/resumed").keys() <= {".gitattributes"}  # nothing shows
    done = run(desk, "alice/resumed")
    assert done["report"]["verdict"] == "passed"
    assert (shards_sent(desk), shards_fetched(desk)) == (every[0] - 2, every[1] - 2)
    unbroken, resumed = digests(desk.hub, "alice/unbroken"), digests(desk.hub, "alice/resumed")
    assert weights(unbroken) == weights(resumed)
    assert not any(desk.scratch.iterdir())


@pytest.mark.slow
def test_a_token_that_ran_out_in_between_costs_no_shard_that_is_done(desk, sources):
    killed(desk, "alice/ran-out")
    limit = least(desk)
    for path in ("/info/lfs/objects/batch", "/api/repos/delete"):
        desk.hub.fault(path, status=401)
    answer = desk("run", ADAPTER, "--to", "alice/ran-out", *FAST, "--scratch-limit", limit, "--json")
    assert answer.error["code"] == "no-access"
    desk.hub.clear_faults()
    run(desk, "alice/ran-out")
    resumed = shards_fetched(desk)
    run(desk, "alice/never-stopped")
    assert resumed == shards_fetched(desk) - 2
    assert not any(desk.scratch.iterdir())


@pytest.mark.slow
def test_another_machine_merges_again_and_sends_only_what_is_missing(desk, sources):
    run(desk, "alice/one-machine")
    every = shards_sent(desk), shards_fetched(desk)
    killed(desk, "alice/two-machines")
    (desk.root / "elsewhere").mkdir()
    desk.set(MERGE_BOT_SCRATCH=str(desk.root / "elsewhere"))
    run(desk, "alice/two-machines")
    assert (shards_sent(desk), shards_fetched(desk)) == (every[0] - 2, every[1])
    one, two = digests(desk.hub, "alice/one-machine"), digests(desk.hub, "alice/two-machines")
    assert weights(one) == weights(two)


@pytest.mark.slow
def test_what_the_hub_has_lost_since_is_merged_again(desk, sources):
    killed(desk, "alice/lost")
    desk.hub.delete_repo("alice/lost")
    done = run(desk, "alice/lost")
    assert done["report"]["verdict"] == "passed"


@pytest.mark.slow
def test_a_cancelled_run_leaves_nothing(desk, sources):
    started = run(desk, "alice/cancelled", call=lambda *given: desk.start(*given, trap="shards"))
    started.trapped()
    started.send(signal.SIGINT)
    assert started.end().code == 130
    assert desk.hub.state.store.find("model", "alice/cancelled") is None
    assert not any(desk.scratch.iterdir())


@pytest.mark.slow
def test_after_a_fault_of_the_hub_the_next_run_goes_on(desk, sources):
    limit = plan_of(desk, "alice/faulty")["least_bytes"]
    desk.set(MERGE_BOT_ATTEMPTS="1")
    desk.hub.fault(r"^/lfs/", method="PUT", status=500)
    answer = desk("run", ADAPTER, "--to", "alice/faulty", *FAST, "--scratch-limit", limit, "--json")
    assert (answer.code, digests(desk.hub, "alice/faulty").keys() <= {".gitattributes"}) == (4, True)
    desk.hub.clear_faults()
    assert run(desk, "alice/faulty")["report"]["verdict"] == "passed"


@pytest.mark.slow
def test_what_would_be_loaded_in_its_place_is_found_before_a_shard_is_fetched(desk, sources):
    desk.hub.commit("alice/theirs", {"model.safetensors": "theirs", "notes.txt": "theirs"})
    limit = least(desk)
    desk.hub.clear_requests()
    answer = desk("run", ADAPTER, "--to", "alice/theirs", "--pr", *FAST, "--scratch-limit", limit, "--json")
    assert answer.error["code"] == "destination-exists"
    assert shards_fetched(desk) == 0


@pytest.mark.slow
def test_a_dry_run_leaves_alone_what_another_run_goes_on_with(desk, sources, monkeypatch):
    def down(*_, **__):
        raise HostError("The Hub is down.", advice="Wait.", code="hub-down")

    with monkeypatch.context() as patch:
        patch.setattr(Parcel, "send", down)
        limit = least(desk)
        assert desk("run", ADAPTER, "--to", "alice/waits", *FAST, "--scratch-limit", limit).code == 4
    before = tree(desk.scratch)
    assert before
    assert run(desk, "alice/waits", "--dry-run")["report"]["verdict"] == "passed"
    assert tree(desk.scratch) == before


@pytest.mark.slow
def test_a_shard_is_sent_ahead_also_where_the_repository_keeps_such_files_in_git(desk, sources, monkeypatch):
    desk.hub.commit("alice/in-git", {".gitattributes": ""})
    monkeypatch.setattr("tests.hub.routes_upload.LFS_SUFFIXES", ())
    done = run(desk, "alice/in-git")
    stored = done["publication"]["checks"][0]
    assert (stored["name"], stored["verdict"]) == ("stored", "passed")


def test_a_destination_that_others_fill_meanwhile_is_left_alone(desk, sources, monkeypatch):
    honest = Parcel.send

    def send(self, path, **given):
        desk.hub.commit("alice/taken", {"theirs.txt": "mine"})
        honest(self, path, **given)

    monkeypatch.setattr(Parcel, "send", send)
    limit = least(desk)
    answer = desk("run", ADAPTER, "--to", "alice/taken", *FAST, "--scratch-limit", limit, "--json")
    assert answer.error["code"] == "destination-exists"
    assert "theirs.txt" in digests(desk.hub, "alice/taken")


def test_a_shard_that_is_changed_before_it_is_sent_stops_the_run(desk, sources, monkeypatch):
    honest = Parcel.send

    def send(self, path, **given):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        honest(self, path, **given)

    monkeypatch.setattr(Parcel, "send", send)
    limit = least(desk)
    answer = desk("run", ADAPTER, "--to", "alice/flipped", *FAST, "--scratch-limit", limit, "--json")
    assert answer.error["code"] == "changed-since-validation"
    assert desk.hub.state.store.find("model", "alice/flipped") is None


# what is said in the plan


def test_the_plan_says_the_least_that_works(desk, sources):
    limit = least(desk)
    error = desk.refused(
        "run",
        ADAPTER,
        "--to",
        "alice/small",
        "--scratch-limit",
        str(limit - 1),
        code=3,
        reason="scratch-too-small",
    )
    assert "--scratch-limit" in error["advice"]
    answer = desk("plan", ADAPTER, "--to", "alice/small")
    assert "shard by shard" in " ".join(answer.out.split())


def test_a_merge_that_needs_the_whole_model_says_so(desk, sources):
    error = desk.refused(
        "run", ADAPTER, "--to", "alice/small", "--way", "whole", "--scratch-limit", "20kB",
        code=3, reason="scratch-too-small",
    )  # fmt: skip
    assert "transformers has to load the whole model" in error["sentence"]


def test_a_disk_that_is_too_small_makes_it_go_shard_by_shard(desk, sources, monkeypatch):
    room = least(desk)
    monkeypatch.setattr("bot.pipeline.shardwise.limit", lambda *_, **__: room)
    done = desk.done("run", ADAPTER, "--to", "alice/automatic", *FAST)
    assert verdicts(done)["published"] == "skipped"


@pytest.mark.slow
def test_a_disk_that_takes_the_result_but_not_the_base_beside_it_is_too_small(desk, sources, monkeypatch):
    """It is large enough where the base has been fetched before."""
    output = desk.done("plan", ADAPTER, "--to", "alice/beside")["estimate"]["output_bytes"]
    usage = shutil.disk_usage(desk.root)._replace(free=output + output // 2)
    monkeypatch.setattr("bot.pipeline.shutil.disk_usage", lambda _: usage)
    assert verdicts(desk.done("run", ADAPTER, "--to", "alice/beside", *FAST))["published"] == "skipped"
    snapshot_download(BASE, cache_dir=constants.HF_HUB_CACHE, endpoint=desk.hub.url)
    assert verdicts(desk.done("run", ADAPTER, "--to", "alice/fetched", *FAST))["published"] == "passed"


@pytest.mark.parametrize(("free", "limit"), [(1000, None), (200, None), (150, 142), (50, 47), (10, None)])
def test_without_being_asked_only_what_does_not_fit_goes_so(free, limit):
    traffic = SimpleNamespace(obstacle="", least_bytes=20)
    plan = SimpleNamespace(traffic=traffic, estimate=SimpleNamespace(output_bytes=100, download_bytes=100))
    assert shardwise.limit(plan, asked=None, free=free, fetched=100) == limit
