"""Sets up what each client suite needs, below target/clients: quick when it is already there."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parents[1] / "target" / "clients"


class Missing(Exception):
    """A runtime that is not on this machine. The message says which."""


class SetupFailed(Exception):
    """A set-up command that failed. The message holds the end of its output."""


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"{program} is not installed")


def command(*arguments, cwd=None, **environment):
    """Runs one set-up command; its output is shown only if it fails."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise SetupFailed(f"{' '.join(map(str, arguments))}\n{done.stdout[-4000:]}")


def prepared(name, inputs, build):
    """Returns target/clients/NAME after `build(folder)` has run once for the content of `inputs`."""
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for path in sorted(inputs):
        digest.update(path.read_bytes())
    stamp = folder / "stamp"
    if not stamp.exists() or stamp.read_text() != digest.hexdigest():
        stamp.unlink(missing_ok=True)
        build(folder)
        stamp.write_text(digest.hexdigest())
    return folder


def python(requirements):
    """A virtual environment with exactly the packages of python/REQUIREMENTS; returns its interpreter."""
    listed = HERE / "python" / requirements

    def build(folder):
        command(sys.executable, "-m", "venv", "--clear", folder / "venv")
        command(
            folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "--no-deps",
            "--disable-pip-version-check", "--requirement", listed,
        )  # fmt: skip

    return prepared(listed.stem, [listed], build) / "venv/bin/python"


def node():
    """node_modules as package-lock.json has them; returns the folder for NODE_PATH."""
    need("node", "npm")
    files = [HERE / "node" / "package.json", HERE / "node" / "package-lock.json"]

    def build(folder):
        for file in files:
            shutil.copy(file, folder)
        command("npm", "ci", "--silent", "--ignore-scripts", cwd=folder)

    return prepared("node", files, build) / "node_modules"


def go():
    """The one binary that holds every Go client."""
    need("go")
    source = HERE / "go"

    def build(folder):
        command("go", "build", "-mod=readonly", "-o", folder / "clients", ".", cwd=source)

    inputs = [*source.glob("*.go"), source / "go.mod", source / "go.sum"]
    return prepared("go", inputs, build) / "clients"


def rust():
    """The binary of the Rust client, built in a workspace of its own."""
    need("cargo")
    source = HERE / "rust"

    def build(folder):
        command("cargo", "build", "--locked", "--quiet", cwd=source, CARGO_TARGET_DIR=folder)

    inputs = [*source.glob("src/*.rs"), source / "Cargo.toml", source / "Cargo.lock"]
    return prepared("rust", inputs, build) / "debug" / "clients"


def maven(name, pom, sources=(), **properties):
    """Resolves the dependencies of `pom` and compiles `sources` against them; returns the class path."""
    need("java", "javac", "mvn")

    def build(folder):
        jars = folder / "jars.txt"
        command(
            "mvn", "--batch-mode", "--quiet", "--file", pom, f"-Dmdep.outputFile={jars}",
            *(f"-D{key.replace('_', '.')}={value}" for key, value in properties.items()),
            "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath",
        )  # fmt: skip
        classes = folder / "classes"
        shutil.rmtree(classes, ignore_errors=True)
        classes.mkdir()
        if sources:
            command("javac", "-d", classes, "-cp", jars.read_text(), *sources)

    folder = prepared(name, [pom, *sources], build)
    return f"{folder / 'classes'}:{(folder / 'jars.txt').read_text()}"


# A JVM for a short run: the first compiler only, the collector that starts fastest, a quiet log.
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]


def kafka_tools():
    """The class path of Apache Kafka's own tools and server."""
    return maven("kafka-tools", HERE / "java" / "tools.xml")


def kcat():
    """kcat and its libraries unpacked from Debian's packages, for which no root is needed."""
    need("apt-get", "dpkg")
    listed = HERE / "python" / "kcat.packages"

    def build(folder):
        names = listed.read_text().split()
        try:
            command("apt-get", "download", *names, cwd=folder)
        except SetupFailed:  # The lists of packages may never have been fetched.
            command("apt-get", "update")
            command("apt-get", "download", *names, cwd=folder)
        for package in folder.glob("*.deb"):
            command("dpkg", "-x", package, folder)
            package.unlink()

    return prepared("kcat", [listed], build)
