"""What a service can be told, read off its own --help: the one description of its settings, ports and verbs."""

import re
import subprocess
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("writer", "reader", "console", "jobs", "importer", "notifier")
# Files of secrets that a service takes, and the demo's with the same form.
SECRETS = {
    "DATABASE_URL_FILE": "writer_url.txt",
    "READER_DATABASE_URLS_FILE": "reader_urls.txt",
    "CONSOLE_TOKENS_FILE": "console_tokens.toml",
    "CHANNEL_SECRET_FILE": "channel_secret.txt",
}
# Variables that any program of this kind knows.
COMMON = {"RUST_BACKTRACE"}


@lru_cache
def help_of(binaries: str, *command: str) -> str:
    """The help text of a command, or of one of its verbs; raises when it does not know the verb."""
    program, *verbs = command
    done = subprocess.run([Path(binaries) / program, *verbs, "--help"], capture_output=True, text=True, env={"COLUMNS": "200"})
    if done.returncode != 0:
        raise ValueError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[0]}")
    return done.stdout


def variables(binaries: str, service: str) -> set[str]:
    """The environment variables that it reads."""
    return set(re.findall(r"\[env: ([A-Z_]+)=?", help_of(binaries, service))) | COMMON


def ports(binaries: str, service: str) -> set[int]:
    """The ports that it listens on by default."""
    return {int(port) for port in re.findall(r"\[default: (?:0\.0\.0\.0|127\.0\.0\.1):(\d+)\]", help_of(binaries, service))}


def flags(binaries: str, *command: str) -> set[str]:
    """The flags of a command, those of its verbs not included."""
    return set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", help_of(binaries, *command)))


def verbs(binaries: str, *command: str) -> set[str]:
    """The verbs of a command."""
    text = help_of(binaries, *command)
    if "Commands:" not in text:
        return set()
    listed = text.split("Commands:", 1)[1].split("\n\n", 1)[0]
    return set(re.findall(r"^  ([a-z][a-z-]*)", listed, re.MULTILINE)) - {"help"}


def refused(binaries: str, program: str, arguments: list[str], environment: dict[str, str]) -> str | None:
    """What a service says against a configuration that it does not take; None when it would start with it."""
    command = [Path(binaries) / program, *arguments, "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return None if done.returncode == 0 else f"{program} refuses it: {done.stderr.strip().splitlines()[0]}"


def wrong_command(binaries: str, program: str, arguments: list[str]) -> str | None:
    """Why a service would refuse these arguments for their names; None when it knows verbs and flags."""
    command = [program]
    for place, argument in enumerate(arguments):
        name = argument.split("=", 1)[0]
        if not argument.startswith("-"):
            known = verbs(binaries, *command)
            if argument in known:
                command.append(argument)
            # Right behind a verb that has verbs of its own; elsewhere it is some flag's value.
            elif place == len(command) - 1 and known:
                return f"{' '.join(command)} has no verb {argument}"
        elif name not in flags(binaries, *command):
            return f"{' '.join(command)} has no flag {name}"
    return None
