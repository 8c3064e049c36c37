"""The documents: links lead somewhere, commands name verbs, flags and targets that exist, and say who runs them.

A block of commands is preceded by one of
    <!-- run -->                as it stands, against a running system, by acceptance/tests/deploy
    <!-- run by: FILE -->       by that test, with other names; it, or a module of it, names each verb of a service
    <!-- not run: REASON -->

usage: documents.py FOLDER_OF_THE_BINARIES
"""

import re
import shlex
import sys
from pathlib import Path

import yaml
from services import ROOT, SERVICES, verbs, wrong_command

PROGRAMS = (*SERVICES, "devstack", "loadtest")
MARK = re.compile(r" *<!-- (run|run by: (?P<file>\S+)|not run: \S.*) -->$")


def documents() -> list[Path]:
    top = [path for path in ROOT.glob("*.md") if path.name != "LICENSE.md"]
    return sorted([*top, *(ROOT / "docs").rglob("*.md"), *(ROOT / "loadtest").glob("*.md"), *(ROOT / "deploy").rglob("*.md")])


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    seen: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ (.+)$", without_blocks(path.read_text()), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(slug if slug not in seen else f"{slug}-{seen[slug]}")
        seen[slug] = seen.get(slug, 0) + 1
    return found


def without_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def links(path: Path) -> list[str]:
    errors = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        if not page.exists():
            errors.append(f"{target} leads nowhere")
        elif anchor and anchor not in anchors(page):
            errors.append(f"{target}: the page has no such section")
    return errors


def blocks(text: str) -> list[tuple[str, str]]:
    """Each block of commands with the line before it."""
    found, lines, start = [], text.split("\n"), None
    for number, line in enumerate(lines):
        if line.strip() == "```sh":
            start = number
        elif line.strip() == "```" and start is not None:
            found.append((lines[start - 1], "\n".join(lines[start + 1 : number])))
            start = None
    return found


def marks(binaries: str, text: str) -> list[str]:
    errors = []
    for before, block in blocks(text):
        mark = MARK.match(before)
        if not mark:
            errors.append(f"nobody says who runs: {block.strip().splitlines()[0]}")
        elif mark["file"] and not (ROOT / mark["file"]).exists():
            errors.append(f"{mark['file']} is not there")
        elif mark["file"]:
            source = with_modules(ROOT / mark["file"])
            errors += [f"{mark['file']} does not run {' '.join(words)}" for words in calls(block.replace("\\\n", " ").splitlines())
                       if not all(f'"{verb}"' in source for verb in verbs_of(binaries, words))]
    return errors


def with_modules(path: Path) -> str:
    """A test's source, and that of the modules which it declares."""
    source = path.read_text()
    folder = path.parent if path.stem in ("main", "lib", "mod") else path.with_suffix("")
    modules = [folder / f"{name}.rs" for name in re.findall(r"^mod (\w+);", source, re.MULTILINE)]
    return "\n".join([source, *(with_modules(module) for module in modules if module.exists())])


def verbs_of(binaries: str, words: list[str]) -> list[str]:
    """The verbs in a call of a service. None of devstack's: tests call it as a library too."""
    command = words[:1]
    while words[0] in SERVICES and len(words) > len(command) and words[len(command)] in verbs(binaries, *command):
        command.append(words[len(command)])
    return command[1:]


def commands(text: str) -> list[list[str]]:
    """The calls of this project's programs and of make, in blocks and in the text."""
    lines = [line for _, block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += [span for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_blocks(text)) if " " in span and "|" not in span]
    return calls(lines)


def calls(lines: list[str]) -> list[list[str]]:
    """Those lines that are calls, without the variables before them."""
    found = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if words and words[0] in (*PROGRAMS, "make"):
            found.append(words)
    return found


def wrong(binaries: str, words: list[str]) -> str | None:
    program, *arguments = words
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        unknown = [word for word in arguments if "=" not in word and word not in targets]
        return f"make has no target {unknown[0]}" if unknown else None
    # What stands behind -- is meant for another program.
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    arguments = [argument for argument in arguments if argument != "…"]
    return wrong_command(binaries, program, arguments)


def runbooks() -> list[str]:
    rules = yaml.safe_load((ROOT / "deploy/observe/alerts.yml").read_text())["groups"]
    errors = []
    for rule in (rule for group in rules for rule in group["rules"]):
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        if not (ROOT / file).exists() or anchor not in anchors(ROOT / file):
            errors.append(f"alert {rule['alert']}: {rule['annotations']['runbook']} is no section")
    return errors


def main(binaries: str) -> list[str]:
    errors = runbooks()
    for path in documents():
        text, name = path.read_text(), path.relative_to(ROOT)
        found = [*links(path), *marks(binaries, text), *filter(None, (wrong(binaries, words) for words in commands(text)))]
        errors += [f"{name}: {error}" for error in found]
    return errors


if __name__ == "__main__":
    found = main(sys.argv[1])
    print("\n".join(found) or f"documents: {len(documents())} pages, links and commands hold")
    sys.exit(bool(found))
