"""Run a Dockerfile's instructions in folders, with chroot in place of a container (container_check.py).

Supports the instructions and options that our Dockerfile uses; any other is an error. Mounts are made in a namespace
that ends with each command, so that none outlives it. Needs root, on Linux.
"""

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
"""Variables of the environment that `docker build` passes to RUN, in upper or lower case."""


@dataclass
class Instruction:
    """One instruction: `RUN --mount=type=cache,target=/x command` has the word RUN, one option and the rest."""

    word: str
    options: list[tuple[str, str]]
    rest: str


@dataclass
class Stage:
    """A stage as it is written: FROM base AS name, and what follows."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


@dataclass
class Image:
    """A stage that was built: its folder, and what its commands start with."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH, "HOME": "/root"})
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)


def read_instruction(line: str) -> Instruction:
    """An instruction of one line."""
    word, _, rest = line.partition(" ")
    options = []
    while (rest := rest.strip()).startswith("--"):
        option, _, rest = rest.partition(" ")
        name, _, value = option.removeprefix("--").partition("=")
        options.append((name, value))
    return Instruction(word.upper(), options, rest)


def read_dockerfile(text: str) -> list[Stage]:
    """The stages of a Dockerfile; ARGs before the first are replaced by their defaults."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    defaults: dict[str, str] = {}
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction = read_instruction(line)
        if instruction.word == "ARG" and not stages:
            name, _, value = instruction.rest.partition("=")
            defaults[name] = value
        elif instruction.word == "FROM":
            base, _, name = instruction.rest.split()
            for argument, value in defaults.items():
                base = base.replace(f"${{{argument}}}", value)
            stages.append(Stage(name, base))
        else:
            stages[-1].instructions.append(instruction)
    return stages


def context_names(dockerignore: str) -> list[str]:
    """What the context holds: .dockerignore leaves out everything but the names that follow an exclamation mark."""
    return [line.removeprefix("!") for line in dockerignore.splitlines() if line.startswith("!")]


class Builder:
    """Builds stages of a Dockerfile below a folder.

    Args:
        stages: of the Dockerfile.
        context: the checkout.
        work: the folder of roots and of cache mounts.
        base: a folder with a fresh root for stages whose base is not a stage.
        secrets: files by the id of their secret; one that is not there is not mounted, as in Docker.
        extra: files of this machine by where RUN finds them, such as apt's settings.
    """

    def __init__(
        self,
        stages: list[Stage],
        context: Path,
        work: Path,
        base: Path,
        secrets: dict[str, Path],
        extra: dict[str, Path],
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.context, self.work, self.base, self.secrets, self.extra = context, work, base, secrets, extra
        self.built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """A stage, after those that it needs. A stage based on another continues in its folder."""
        if name not in self.built:
            stage = self.stages[name]
            if stage.base in self.stages:
                before = self.build(stage.base)
                image = Image(before.root, dict(before.environment), before.folder, before.user, before.entrypoint)
            else:
                image = Image(self.work / f"stage-{name}")
                subprocess.run(["cp", "--archive", self.base, image.root], check=True)
            for instruction in stage.instructions:
                self.follow(instruction, image)
            self.built[name] = image
        return self.built[name]

    def follow(self, instruction: Instruction, image: Image) -> None:
        """Execute one instruction."""
        word, rest = instruction.word, instruction.rest
        if word == "WORKDIR":
            image.folder = rest
            (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "ENV":
            name, _, value = rest.partition("=")
            image.environment[name] = value
        elif word == "USER":
            image.user = rest
        elif word == "ENTRYPOINT":
            image.entrypoint = json.loads(rest)
        elif word == "COPY":
            self.copy(instruction, image)
        elif word == "RUN":
            mounts = self.mounts_of(instruction)
            proxies = {name: value for name, value in os.environ.items() if name.lower() in PASSED}
            run_in(image, ["/bin/sh", "-c", rest], mounts={**mounts, **self.extra}, more=proxies)
        elif word != "CMD":
            raise SystemExit(f"error: environment/dockerfile.py does not support {word}")

    def copy(self, instruction: Instruction, image: Image) -> None:
        """COPY of the context, or of a folder of a stage; in place of a second copy on disk, files are linked."""
        source, target = instruction.rest.split()
        into = image.root / (target if target.startswith("/") else f"{image.folder}/{target}").lstrip("/")
        into.mkdir(parents=True, exist_ok=True)
        options = dict(instruction.options)
        if options:
            origin = self.build(options["from"]).root / source.lstrip("/")
            subprocess.run(["cp", "--archive", "--link", f"{origin}/.", into], check=True)
            return
        for name in context_names((self.context / ".dockerignore").read_text()):
            ignored = shutil.ignore_patterns("__pycache__")
            if (self.context / name).is_dir():
                shutil.copytree(self.context / name, into / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy2(self.context / name, into / name)
        subprocess.run(["chown", "--recursive", "0:0", into], check=True)

    def mounts_of(self, instruction: Instruction) -> dict[str, Path]:
        """Mounts of RUN by target: bind mounts of the context, caches, and given secrets."""
        mounts = {}
        for _, value in instruction.options:
            given = dict(part.split("=") for part in value.split(","))
            if given["type"] == "bind":
                mounts[given["target"]] = self.context / given["source"]
            elif given["type"] == "cache":
                cache = self.work / "cache" / given["target"].lstrip("/")
                cache.mkdir(parents=True, exist_ok=True)
                mounts[given["target"]] = cache
            elif given["type"] == "secret" and given["id"] in self.secrets:
                mounts[f"/run/secrets/{given['id']}"] = self.secrets[given["id"]]
        return mounts


def run_in(
    image: Image,
    command: list[str],
    mounts: dict[str, Path] | None = None,
    more: dict[str, str] | None = None,
    capture: bool = False,
) -> str:
    """Run a command in an image's root as its user, as process 1; return its stdout if it is captured.

    Raises:
        SystemExit: the command failed.
    """
    root = image.root
    network = {"/etc/resolv.conf": Path("/etc/resolv.conf"), "/etc/hosts": Path("/etc/hosts")}
    kinds = {"proc": "proc", "tmpfs": "dev/shm", "devpts": "dev/pts"}
    lines = [f"mkdir -p {root}/{place} && mount -t {kind} {kind} {root}/{place}" for kind, place in kinds.items()]
    for target, source in {**network, **(mounts or {})}.items():
        place = root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            place.mkdir(exist_ok=True)
        else:
            place.touch()
        lines.append(f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(place))}")
    values = [f"{name}={value}" for name, value in {**image.environment, **(more or {})}.items()]
    inside = ["chroot", f"--userspec={image.user}", str(root), "/usr/bin/env", "-i", f"--chdir={image.folder}", *values]
    script = " && ".join([*lines, "exec " + shlex.join([*inside, *command])])
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/bash", "-c", script],
        stdout=subprocess.PIPE if capture else None, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"error: exit code {done.returncode} of {shlex.join(command)}\n{done.stdout or ''}")
    return done.stdout or ""
