"""docker-compose.yml: fits the Compose specification, and says nothing to a service that the service does not know.

usage: compose.py FOLDER_OF_THE_BINARIES
"""

import json
import re
import sys
import tomllib
from pathlib import Path

import jsonschema
import yaml
from services import ROOT, SERVICES, ports, refused, variables, wrong_command

COMPOSE = ROOT / "docker-compose.yml"


def main(binaries: str) -> list[str]:
    compose = yaml.safe_load(COMPOSE.read_text())
    schema = json.loads((Path(__file__).parent / "schemas/compose.json").read_text())
    errors = [f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(compose)]
    errors += build_context()
    errors += watched(compose)
    for name, service in compose["services"].items():
        errors += [f"{name}: {error}" for error in wiring(compose, service)]
        program = service["image"].split(":")[0].removeprefix("siteview/")
        if program in SERVICES:
            errors += [f"{name}: {error}" for error in told(binaries, program, service)]
            wrong = refused(binaries, program, service.get("command", []), here(compose, service.get("environment", {})))
            errors += [f"{name}: {wrong}"] if wrong else []
    return errors


def build_context() -> list[str]:
    """What a build of the images would not find, or find twice."""
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    errors = [f".dockerignore keeps {member}/Cargo.toml out" for member in members if not {f"!{member}", f"!{member}/Cargo.toml"} & set(sent)]
    names = [package["name"] for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]]
    asked = re.findall(r"-p ([\w+:/.-]+)", (ROOT / "deploy/Dockerfile").read_text())
    errors += [f"deploy/Dockerfile: -p {name} names {names.count(name)} packages" for name in asked if ":" not in name and names.count(name) != 1]
    built = {name.rsplit("/", 1)[-1] for name in asked}
    errors += [] if built == set(SERVICES) else [f"deploy/Dockerfile builds {sorted(built)}"]
    return errors


def watched(compose: dict) -> list[str]:
    """Services that Prometheus is not told of, targets that are none, files of targets without a job."""
    files = {path.stem: json.loads(path.read_text()) for path in (ROOT / "deploy/compose/targets").glob("*.json")}
    jobs = {job["job_name"] for job in yaml.safe_load((ROOT / "deploy/observe/prometheus.yml").read_text())["scrape_configs"]}
    hosts = {target.split(":")[0] for groups in files.values() for group in groups for target in group["targets"]}
    own = {name for name, service in compose["services"].items() if service["image"].startswith("siteview/") and service["restart"] != "no"}
    errors = [f"{name} is scraped by nobody" for name in sorted(own - hosts)]
    errors += [f"{host} is scraped and not there" for host in sorted(hosts - compose["services"].keys())]
    return errors + [f"job {job} has no targets, or they no job" for job in sorted(jobs ^ files.keys())]


def wiring(compose: dict, service: dict) -> list[str]:
    """Names that lead nowhere: other services, secrets, volumes, files; images that are not pinned."""
    awaited = service.get("depends_on") or {}
    errors = [f"depends on {other}, which is not there" for other in awaited if other not in compose["services"]]
    if isinstance(awaited, list):
        errors.append(f"starts behind {awaited}, whether they work or not: name a condition for each")
        awaited = {}
    for other, on in awaited.items():
        if on["condition"] == "service_healthy" and "healthcheck" not in compose["services"].get(other, {}):
            errors.append(f"waits for the health of {other}, which has no health check")
    errors += [f"secret {secret} is not there" for secret in service.get("secrets", []) if secret not in compose["secrets"]]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if not (ROOT / source).exists() if source.startswith(".") else source not in compose["volumes"]:
            errors.append(f"volume {source} is not there")
    errors += [f"{published} is published to more than this machine" for published in service.get("ports", [])
               if not published.startswith("127.0.0.1:")]
    image, _, tag = service["image"].rpartition(":")
    if not image or tag in ("", "latest") or not any(character.isdigit() for character in tag):
        errors.append(f"image {service['image']} is not pinned")
    return errors


def here(compose: dict, environment: dict) -> dict[str, str]:
    """The environment of a service, its secrets where they lie outside of the container."""
    files = {f"/run/secrets/{name}": str(ROOT / secret["file"]) for name, secret in compose["secrets"].items()}
    return {name: files.get(value, value) for name, value in environment.items()}


def told(binaries: str, program: str, service: dict) -> list[str]:
    """What the service is told and does not know."""
    known = variables(binaries, program)
    errors = [f"{program} does not read {name}" for name in service.get("environment", {}) if name not in known]
    for published in service.get("ports", []):
        port = int(published.rsplit(":", 1)[-1])
        if port not in ports(binaries, program):
            errors.append(f"{program} does not listen on {port}")
    asked = service.get("healthcheck", {}).get("test", ["CMD", program])
    if asked[0] != "CMD" or Path(asked[1]).name != program:
        errors.append(f"its health check is not asked by {program} itself: {asked}")
    for arguments in (service.get("command", []), asked[2:]):
        wrong = wrong_command(binaries, program, arguments)
        errors += [wrong] if wrong else []
    for secret in (value for name, value in service.get("environment", {}).items() if name.endswith("_FILE")):
        if Path(secret).name not in service.get("secrets", []):
            errors.append(f"{secret} is no secret of it")
    return errors


if __name__ == "__main__":
    found = main(sys.argv[1])
    print("\n".join(found) or "docker-compose.yml: valid, and its services know all they are told")
    sys.exit(bool(found))
