"""What lies in deploy/: valid, and what it tells merge-bot is what merge-bot takes."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from bot import cli
from bot.config.load import load

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = [
    one for file in sorted(DEPLOY.glob("kubernetes/*.yaml")) for one in yaml.safe_load_all(file.read_text())
]
PODS = {one["metadata"]["name"]: one for one in MANIFESTS if one["kind"] in {"Deployment", "StatefulSet"}}
DRAIN = load(DEPLOY / "merge-bot.toml", {}).server.drain_seconds


def containers(manifest):
    return manifest["spec"]["template"]["spec"]["containers"]


def service():
    read = configparser.RawConfigParser(strict=False)
    read.optionxform = str
    read.read(DEPLOY / "merge-bot.service")
    return read["Service"]


def ours():
    """Every command line of merge-bot, by where it stands."""
    started = {f"compose {name}": s["command"] for name, s in COMPOSE["services"].items() if "command" in s}
    started |= {f"kubernetes {name}": c["args"] for name, one in PODS.items() for c in containers(one)}
    return started | {"systemd": shlex.split(service()["ExecStart"])[1:]}


@pytest.mark.parametrize("where", ours())
def test_every_command_line_is_one_that_merge_bot_takes(where):
    name, *flags = ours()[where]
    with cli.cli.commands[name].make_context(name, list(flags), **cli.cli.context_settings) as context:
        assert context.params["form"] == "json"


def test_compose_is_as_its_schema_says():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, DEPLOY / "compose.yaml"], check=True, capture_output=True)
    used = {name for s in COMPOSE["services"].values() for name in s.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    mounted = {v.split(":")[0] for s in COMPOSE["services"].values() for v in s.get("volumes", [])}
    assert mounted == set(COMPOSE["volumes"])


def variables():
    given = dict(COMPOSE["services"]["server"]["environment"])
    given |= {
        e["name"]: e.get("value", "x" * 32)
        for one in PODS.values()
        for c in containers(one)
        for e in c["env"]
    }
    return {name: value for name, value in given.items() if name.startswith("MERGE_BOT_")}


def test_every_variable_is_one_that_merge_bot_reads(tmp_path):
    (tmp_path / "secret").write_text("sqlite:////state/x.sqlite")
    for name, value in variables().items():
        known = str(tmp_path / "secret") if name.endswith("_FILE") else value
        known = "sqlite:////state/x.sqlite" if name == "MERGE_BOT_DATABASE_URL" else known
        load(DEPLOY / "merge-bot.toml", {name: known})


@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_manifests_are_as_the_schemas_of_kubernetes_say(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**manifest, "spec": {**manifest["spec"], "selektor": {}}}, version, strict=True
        )


def test_manifests_fit_together():
    assert len({(one["kind"], one["metadata"]["name"]) for one in MANIFESTS}) == len(MANIFESTS)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in PODS.values()]
    for one in MANIFESTS:
        selector = one["spec"]["selector"]
        wanted = (selector.get("matchLabels", selector)).items()
        assert any(wanted <= found.items() for found in labels), one["metadata"]["name"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_probed_bounded_and_has_no_rights_that_it_does_not_need(name):
    pod = PODS[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN
    volumes = {v["name"] for v in [*pod["volumes"], *_claims(PODS[name])]}
    for container in pod["containers"]:
        ports = {port["name"] for port in container["ports"]}
        assert {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} <= ports
        assert container["resources"]["limits"]["memory"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def _claims(manifest):
    return [claim["metadata"] for claim in manifest["spec"].get("volumeClaimTemplates", [])]


def test_the_pool_of_gpus_is_on_nodes_with_gpus_and_merges_from_a_queue_that_is_filled():
    pod = PODS["merge-bot-gpu-24g"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"]
    assert "nvidia.com/gpu" in {toleration["key"] for toleration in pod["tolerations"]}
    config = load(DEPLOY / "merge-bot.toml", {})
    queue = next(
        flag.partition("=")[2] for flag in pod["containers"][0]["args"] if flag.startswith("--queue")
    )
    assert queue in config.worker.queues
    assert f"pool:{queue}" in {line.runner for line in config.runners}


def test_somebody_reaps_what_a_killed_step_leaves_behind():
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if service.get("init")] == ["server", "gpu"]
    assert all(pod["spec"]["template"]["spec"].get("shareProcessNamespace") for pod in PODS.values())


def test_no_stop_is_cut_off_before_its_time():
    seconds = re.fullmatch(r"(\d+)s", COMPOSE["services"]["server"]["stop_grace_period"])[1]
    assert int(seconds) > DRAIN
    assert int(service()["TimeoutStopSec"]) > load(None, {}).server.drain_seconds


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_unit_is_one_that_systemd_takes(tmp_path):
    text = (DEPLOY / "merge-bot.service").read_text().replace("/opt/merge-bot/bin/merge-bot", "/bin/true")
    (tmp_path / "merge-bot.service").write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / "merge-bot.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "merge-bot.service" not in done.stderr, done.stderr
