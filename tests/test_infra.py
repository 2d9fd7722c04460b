"""The files that operators deploy: valid, hardened, and in step with the code and with each other."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from api.metrics import Metrics
from docs.settings_reference import render
from embedder.metrics import Metrics as EmbedderMetrics
from embedder.pool import Pool
from embedder.settings import Settings as EmbedderSettings

ROOT = Path(__file__).parents[1]
MANIFESTS = sorted((ROOT / "infra" / "kubernetes").glob("*.yaml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
KUBERNETES = "1.30"  # the oldest that still has support somewhere
SETTINGS = set(re.findall(r"^\| `(\w+)`", render(), re.MULTILINE))


DOCUMENTS: list[Any] = [document for file in MANIFESTS for document in yaml.safe_load_all(file.read_text())]
KINDS = ("Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler")
PARTS = ("api", "worker", "embedder", "proxy")
PODS = [document for document in DOCUMENTS if document["kind"] in ("Deployment", "Job")]


def name_of(document: Any) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_manifest_fits_kubernetes_schema(document: Any) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("document", PODS, ids=name_of)
def test_a_pod_is_hardened_and_bounded(document: Any) -> None:
    pod = document["spec"]["template"]["spec"]
    [container] = pod["containers"]

    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]
    assert container["image"].startswith("your-registry/quiver-")


def test_what_serves_is_probed_and_never_taken_away_as_a_whole() -> None:
    named = {
        kind: {document["metadata"]["name"] for document in DOCUMENTS if document["kind"] == kind} for kind in KINDS
    }
    containers = [
        document["spec"]["template"]["spec"]["containers"][0] for document in PODS if document["kind"] == "Deployment"
    ]

    assert named["Deployment"] == named["PodDisruptionBudget"] == {f"quiver-{part}" for part in PARTS}
    assert named["HorizontalPodAutoscaler"] == named["Deployment"] - {"quiver-proxy"}
    assert all({"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys() for container in containers)


def test_the_configuration_of_kubernetes_names_settings_that_exist() -> None:
    named = {
        name
        for document in DOCUMENTS
        if name_of(document) in ("ConfigMap-quiver", "Secret-quiver")
        for name in document.get("data", document.get("stringData"))
    }

    assert named - SETTINGS == set()
    assert {"DATABASE_URL", "SERVER_API_KEY", "FILES_DIR"} <= named


def test_the_embedder_may_take_its_time_to_stop(compose: Any) -> None:
    pod = next(document for document in PODS if document["metadata"]["name"] == "quiver-embedder")["spec"]["template"]
    command = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    seconds = EmbedderSettings.model_fields["shutdown_seconds"].default

    assert pod["spec"]["terminationGracePeriodSeconds"] > int(command[-1]) + seconds
    assert int(compose["services"]["embedder"]["stop_grace_period"].removesuffix("s")) > seconds


def test_a_deployment_asks_the_port_that_its_image_listens_on() -> None:
    exposed = dict(re.findall(r"AS (\w+)\n(?:(?!FROM).*\n)*?EXPOSE (\d+)", DOCKERFILE))
    asked = {
        container["name"]: str(container["ports"][0]["containerPort"])
        for document in PODS
        for container in document["spec"]["template"]["spec"]["containers"]
        if "ports" in container
    }

    assert asked == exposed


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())


def test_compose_publishes_the_api_alone_and_hardens_everything(compose: Any) -> None:
    services = compose["services"]

    assert [name for name, service in services.items() if "ports" in service] == ["api"]
    for service in services.values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_compose_names_settings_that_exist_and_secrets_that_the_example_has(compose: Any) -> None:
    text = (ROOT / "infra" / "compose.yaml").read_text()
    example = set(re.findall(r"^(\w+)=$", (ROOT / "infra" / ".env.example").read_text(), re.MULTILINE))

    assert set(re.findall(r"\${(\w+):\?", text)) == example
    assert set(compose["x-quiver"]) - {"PGPASSWORD"} - SETTINGS == set()


def test_the_functions_on_lambda_have_settings_that_exist() -> None:
    template = (ROOT / "infra" / "aws" / "template.yaml").read_text()
    [variables] = re.findall(r"Variables:\n((?:        +\w+: .*\n)+)", template)
    [secret] = re.findall(r"SecretString: !Sub\n\s+- '(\{.*\})'\n", template)
    named = {*re.findall(r"^ +(\w+):", variables, re.MULTILINE), *json.loads(secret)}

    assert named - SETTINGS == set()
    assert {"DATABASE_URL", "SERVER_API_KEY", "FILES_DIR", "WAKE_QUEUE_URL"} <= named


def test_the_images_leave_no_room_for_secrets_of_the_machine() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert "*" in ignored
    assert not any(".env" in line for line in ignored if line.startswith("!"))
    assert re.findall(r"^(?:ARG|ENV).*(?:KEY|TOKEN|PASSWORD)=(?!none)\S+", DOCKERFILE, re.MULTILINE) == []


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "infra" / "grafana" / "quiver.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def exposed_samples() -> set[str]:
    """The names that Prometheus gets of the API, the worker and the embedder, with or without a value as yet."""
    ours, embedders = Metrics(), EmbedderMetrics()
    ours.watch_pool(lambda: {"pool_available": 0, "pool_size": 0, "pool_max": 0, "requests_waiting": 0})
    embedders.watch(Pool(EmbedderSettings(config=None)))
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    families = [family for metrics in (ours, embedders) for family in metrics.registry.collect()]
    return {family.name + ending for family in families for ending in endings[family.type]}


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    asked = {name for expression in expressions() for name in re.findall(r"\b(?:quiver|process)_\w+", expression)}

    assert len(asked) > 20
    assert asked - exposed_samples() == set()


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    dashboard = " ".join(expressions())

    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exposed_samples()}
    assert {name for name in families if name.startswith("quiver_") and name not in dashboard} == set()
