"""Jobs in every state for the pages to show, with a plan and a report as a real merge has them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from bot.evidence import ChangedTensor, Errors, Evidence, Perplexity, Scores, Spectrum
from bot.job import Failure, Job, Now, Outcome
from bot.jobs.order import Order, Origin
from bot.records import Binding, Check, Estimate, Publication
from bot.request import Destination, MergeRequest
from tests.jobs.memory import MemoryDesk
from tests.publish.samples import EVIDENCE, a_plan, a_report

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
CHECKS = (
    ("structure", "291 of 291 tensors", "Every name, shape and dtype is as planned."),
    ("changed tensors", "worst 0.50 ulp", "Each is base + delta, rounded once, against a float64 reference."),
    ("untouched tensors", "195 of 195", "Bit for bit the base's."),
    ("behaviour", "worst 4.1e-06", "Merged and base + adapter give the same answers to the same prompts."),
)


def evidence(layers: int = 24) -> Evidence:
    chance = random.Random(7)
    tensors = tuple(
        ChangedTensor(
            name=f"model.layers.{layer}.self_attn.{module}.weight",
            relative_norm=0.02 + 0.03 * math.sin(layer / 5 + i) ** 2 + 0.01 * chance.random(),
            median_ulp=0.25,
            worst_ulp=0.5,
            rows=256,
            of_rows=4096,
        )
        for layer in range(layers)
        for i, module in enumerate(MODULES)
    )
    spectra = tuple(
        Spectrum(layer=f"model.layers.{layer}", rank=16, energy=tuple(0.4 * 0.6**i for i in range(16)))
        for layer in range(0, layers, 6)
    )
    base = tuple(chance.gauss(0, 3) for _ in range(200))
    adapter = tuple(value + chance.gauss(0, 1) for value in base)
    return replace(
        EVIDENCE,
        tensors=tensors,
        spectra=spectra,
        errors=Errors(width=0.05, counts=tuple(9000 - 40 * i for i in range(10)) + (12,) + (0,) * 29),
        scores=Scores(base=base, adapter=adapter, merged=tuple(v + chance.gauss(0, 1e-3) for v in adapter)),
        perplexity=Perplexity(
            base=12.4, adapter=7.31, merged=7.31, tokens=4095, window=1024, cut=True, sha256="e" * 64
        ),
    )


def an_order(
    what: str = "alice/cat-lora",
    *,
    by: str = "alice",
    to: str = "",
    host: str = "page",
    verb: str = "merge",
    **job,
) -> Order:
    key = job.pop("key", "") or format(random.Random(f"{what}{by}{verb}").getrandbits(128), "032x")
    destination = Destination(kind="repository", location=to) if to else None
    return Order(
        job=Job(
            key=key,
            verb=verb,
            what=what,
            asked_by=by,
            ask=f"/merge {what}" + (f" --to={to}" if to else ""),
            **job,
        ),
        request=MergeRequest(adapter=what, destination=destination, requested_by=by or None, attended=False),
        origin=Origin(host=host),
    )


def published(*, public: bool = True, **changes) -> Outcome:
    plan = a_plan(
        bindings=tuple(
            Binding(
                tensor=f"model.layers.{layer}.self_attn.{module}.weight",
                source=f"model.layers.{layer}.self_attn.{module}.weight",
                parameter=f"model.layers.{layer}.self_attn.{module}.weight",
                method="lora",
                adapter=tuple(
                    f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{ab}.weight"
                    for ab in "AB"
                ),
                shape=(4096, 4096),
                dtype="BF16",
                scale=2.0,
            )
            for layer in range(24)
            for module in MODULES
        ),
        estimate=Estimate(
            download_bytes=13_476_000_000,
            output_bytes=13_476_000_000,
            disk_bytes=14_600_000_000,
            memory_bytes=2_100_000_000,
        ),
    )
    checks = tuple(Check(name=n, verdict="passed", figure=f, detail=d) for n, f, d in CHECKS)
    report = a_report(plan, checks=checks, evidence=evidence(), seconds=84, device="NVIDIA L4")
    told = {
        "ended": "published",
        "plan": plan,
        "report": report,
        "publication": Publication(
            destination=Destination(kind="repository", location="alice/cat-7b", public=public),
            url="https://huggingface.co/alice/cat-7b",
            commit="c" * 40,
        ),
        "seconds": 184.0,
        "public": public,
        "cost": 12,
    }
    return Outcome(**{**told, **changes})


REFUSED = Outcome(
    ended="refused",
    seconds=2.1,
    failure=Failure(
        code="license",
        sentence="The licence of acme/secret-base, acme-research, forbids publishing a merged model.",
        advice="Ask the owner of the base, or merge it on a machine of your own.",
        exit_code=3,
    ),
)


def failed_checks() -> Outcome:
    good = published()
    checks = (
        *good.report.checks[:3],
        Check(
            name="behaviour",
            verdict="failed",
            figure="worst 0.83",
            detail="Merged and base + adapter differ by more than rounding explains.",
        ),
    )
    return replace(
        good,
        ended="failed",
        publication=None,
        public=False,
        report=replace(good.report, verdict="failed", checks=checks),
        failure=Failure(
            code="validation",
            sentence="The merged model did not pass its checks: behaviour.",
            advice="Nothing was published. Look at the report, and at the adapter.",
            exit_code=7,
        ),
    )


LOG = (
    "Planning alice/dolphin-dora on acme/base-7b.",
    "\x1b[32mAdapter: LoRA of rank 16 with DoRA, 224 tensors.\x1b[0m",
    "Base found by adapter_config.json, pinned to bbbbbbbbbbbb.",
    "Fetching 13.5 GB in 3 shards.",
    "Shard 1 of 3 is here.",
    "Merging model.layers.0 … model.layers.11.",
)


def filled(now: float) -> tuple[MemoryDesk, dict[str, str]]:
    """Jobs in every state, the newest last, as if some hours had passed; and their ids by state."""
    desk, ids = MemoryDesk(clock=now - 30 * 3600), {}

    def add(name: str, order: Order, hours: float, outcome: Outcome | None = None, took: float = 0.0) -> None:
        entry = desk.enqueue(order)
        key = ids[name] = entry.order.job.key
        desk.jobs[key] = replace(entry, created=now - 3600 * hours)
        if outcome is not None:
            desk.end(key, outcome)
            stage = (
                "validating"
                if outcome.ended == "failed"
                else "planning"
                if outcome.ended == "refused"
                else "publishing"
            )
            desk.tell(key, Now(stage=stage))
            begun = now - 3600 * hours + 5
            desk.jobs[key] = replace(desk.jobs[key], started=begun, ended=begun + took)

    add("old", an_order("bob/poet-lora", by="bob", to="bob/poet-3b", host="hub"), 27, published(), 612)
    hub_pr = Publication(
        destination=Destination(kind="hub_pr", location="acme/cat-7b"),
        url="https://huggingface.co/acme/cat-7b/discussions/4",
        number=4,
    )
    add("hub_pr", an_order("acme/support-lora", by="", host="watch"), 9, published(publication=hub_pr), 233)
    add("failed", an_order("alice/broken-lora", to="alice/broken-7b"), 5, failed_checks(), 190)
    add("refused", an_order("carol/med-lora", by="carol", to="carol/med", host="github"), 3.2, REFUSED, 2.1)
    add(
        "plan",
        an_order("alice/cat-lora", verb="plan"),
        2,
        replace(published(), ended="skipped", report=None, publication=None, public=False),
        3,
    )
    add("published", an_order("alice/cat-lora", to="alice/cat-7b"), 0.6, published(), 184)
    add("running", an_order("alice/dolphin-dora", to="alice/dolphin-7b"), 0.06)
    add("queued", an_order("bob/story-lora@v2:final", by="bob", to="bob/story-13b"), 0.01)
    desk.begin(ids["running"], worker="local-0")
    desk.jobs[ids["running"]] = replace(desk.jobs[ids["running"]], started=now - 140, runner="local")
    desk.tell(ids["running"], Now(stage="merging", done=6_300_000_000, total=13_476_000_000))
    for text in LOG:
        desk.write(ids["running"], text)
    for text in (*LOG, "Published as alice/cat-7b."):
        desk.write(ids["published"], text)
    return desk, ids
