"""The rendered overlays: fit the schemas of Kubernetes and of the operators, strictly, and agree with what they lean on.

Kubernetes' schemas come with the package kubernetes-validate; those of KEDA and the Prometheus operator stand in schemas/, since
no package has them.

usage: kubernetes.py FOLDER_OF_THE_BINARIES OVERLAY=RENDERED_FILE…
"""

import json
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from services import ROOT, SECRETS, ports, refused, variables, wrong_command

# The oldest that knows everything used (preStop sleep is on by default from 1.30), and the newest that the package has.
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def main(binaries: str, rendered: str) -> list[str]:
    objects = [o for o in yaml.safe_load_all(Path(rendered).read_text()) if o]
    errors = [*images(objects), *alone(objects)]
    for o in objects:
        name = f"{o['kind']} {o['metadata']['name']}"
        errors += [f"{name}: {error}" for error in against_schema(o)]
        if o["metadata"].get("namespace") != "siteview":
            errors.append(f"{name}: is not in namespace siteview")
        if o["kind"] in ("Deployment", "Job"):
            errors += [f"{name}: {error}" for error in pods(binaries, objects, o["spec"]["template"])]
        if o["kind"] == "PrometheusRule" and o["spec"]["groups"] != yaml.safe_load((ROOT / "deploy/observe/alerts.yml").read_text())["groups"]:
            errors.append(f"{name}: its groups are not those of deploy/observe/alerts.yml")
        errors += [f"{name}: {error}" for error in targets(objects, o)]
    return errors


def against_schema(o: dict) -> list[str]:
    own = {(s["group"], s["version"], s["kind"]): s["schema"] for s in schemas()}
    key = (*o["apiVersion"].split("/", 1), o["kind"])
    if key in own:
        closed = jsonschema.Draft7Validator(strict(own[key]))
        return [f"{error.json_path}: {error.message}" for error in closed.iter_errors(o)]
    errors = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(o, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            errors.append(f"{version}: {'.'.join(map(str, error.path))}: {error.message}")
    return errors


def schemas():
    files = (json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json"))
    return [schema for schema in files if "kind" in schema]


def strict(schema):
    """The schema, refusing members it does not name, as the API server drops them without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        closed["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
        if "metadata" in schema["properties"] and "kind" in schema["properties"]:
            closed["properties"]["metadata"] = {"type": "object"}
    return closed


def pods(binaries: str, objects: list[dict], template: dict) -> list[str]:
    """What the container is told and does not know, or refuses; what it must not be allowed."""
    errors = []
    for container in template["spec"]["containers"]:
        program = container["image"].split(":")[0].removeprefix("siteview/")
        told = environment(objects, container)
        errors += [f"{program} does not read {name}" for name in told.keys() - variables(binaries, program)]
        mounted = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        files = {name: path for name, path in told.items() if name.endswith("_FILE")}
        errors += [f"{name}: nothing is mounted for {path}" for name, path in files.items() if str(Path(path).parent) not in mounted]
        here = {name: str(ROOT / "deploy/compose/secrets" / SECRETS[name]) for name in files if name in SECRETS}
        wrong = refused(binaries, program, container.get("args", []), {**told, **here})
        errors += [wrong] if wrong else []
        errors += [f"{program} does not listen on {port['containerPort']}" for port in container.get("ports", [])
                   if port["containerPort"] not in ports(binaries, program)]
        wrong = wrong_command(binaries, program, container.get("args", []))
        errors += [wrong] if wrong else []
        if container["securityContext"] != {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}:
            errors.append(f"{program} is allowed more than it needs")
    if not template["spec"]["securityContext"].get("runAsNonRoot"):
        errors.append("may run as root")
    return errors


def environment(objects: list[dict], container: dict) -> dict[str, str]:
    """The variables of a container, those of config maps included."""
    maps = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    told = {}
    for source in container.get("envFrom", []):
        told |= maps[source["configMapRef"]["name"]]
    for variable in container.get("env", []):
        from_map = variable.get("valueFrom", {}).get("configMapKeyRef")
        told[variable["name"]] = maps[from_map["name"]][from_map["key"]] if from_map else variable["value"]
    return told


def images(objects: list[dict]) -> list[str]:
    """Images without a version, and of different ones."""
    used = {c["image"] for o in objects if o["kind"] in ("Deployment", "Job") for c in o["spec"]["template"]["spec"]["containers"]}
    errors = [f"image {image} is not pinned" for image in sorted(used) if ":" not in image]
    versions = {image.split(":")[1] for image in used if ":" in image}
    return [*errors, f"images of versions {sorted(versions)}"] if len(versions) > 1 else errors


def alone(objects: list[dict]) -> list[str]:
    """Pods that no policy fences in, and services that nobody watches where services are watched."""
    deployments = [o for o in objects if o["kind"] in ("Deployment", "Job")]
    policies = [o["spec"] for o in objects if o["kind"] == "NetworkPolicy"]
    fenced = [p["podSelector"] for p in policies if {"Ingress", "Egress"} <= set(p["policyTypes"])]
    watched = [o["spec"]["selector"]["matchLabels"] for o in objects if o["kind"] == "ServiceMonitor"]
    errors = []
    for o in deployments:
        name, labels = f"{o['kind']} {o['metadata']['name']}", o["spec"]["template"]["metadata"]["labels"]
        if not any(selects(selector, labels) for selector in fenced):
            errors.append(f"{name}: no NetworkPolicy fences it in")
        if watched and o["kind"] == "Deployment" and not any(wanted.items() <= labels.items() for wanted in watched):
            errors.append(f"{name}: no ServiceMonitor watches it")
    return errors


def selects(selector: dict, labels: dict) -> bool:
    """Whether a selector of pods, by labels and by `In`, means these."""
    by_expression = all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []) if e["operator"] == "In")
    return by_expression and selector.get("matchLabels", {}).items() <= labels.items()


def targets(objects: list[dict], o: dict) -> list[str]:
    """Selectors and references that nothing answers to."""
    names = {(other["kind"], other["metadata"]["name"]) for other in objects}
    pod_labels = [other["spec"]["template"]["metadata"]["labels"] for other in objects if other["kind"] in ("Deployment", "Job")]
    errors = []
    spec = o.get("spec", {})
    reference = spec.get("scaleTargetRef")
    if reference and (reference.get("kind", "Deployment"), reference["name"]) not in names:
        errors.append(f"scales {reference['name']}, which is not there")
    wanted = spec.get("selector") if o["kind"] == "Service" else spec.get("selector", {}).get("matchLabels") if o["kind"] == "PodDisruptionBudget" else None
    if wanted and not any(wanted.items() <= labels.items() for labels in pod_labels):
        errors.append(f"selects {wanted}, which no pod has")
    if o["kind"] == "ServiceMonitor":
        services = [other for other in objects if other["kind"] == "Service"]
        chosen = [s for s in services if spec["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
        if not any({"admin"} == {e["port"] for e in spec["endpoints"]} & {p["name"] for p in s["spec"]["ports"]} for s in chosen):
            errors.append("selects no service with its port")
    return errors


if __name__ == "__main__":
    binaries, *overlays = sys.argv[1:]
    found = [f"{name}: {error}" for name, path in (o.split("=") for o in overlays) for error in main(binaries, path)]
    print("\n".join(found) or f"kubernetes: {len(overlays)} overlays fit the schemas of {' and '.join(VERSIONS)}")
    sys.exit(bool(found))
