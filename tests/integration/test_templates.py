"""The templates for buf: what they ask of plugins, and that what is committed is what they give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).parent / "buf"
PREFIX = "example.com/billing/gen"
FOLDERS = {"billing/v1": "billingv1", "billing/options/v1": "optionsv1"}  # with the names of their Go packages
PUBLIC = {f"{folder}/{path.name}" for folder in FOLDERS for path in (ROOT / "protos" / folder).glob("*.proto")}
# Answers that it makes no file, and keeps what it was asked.
# Called once for each folder of the contract.
RECORDER = """#!{python}
import os, sys
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorResponse
open({record!r} + "." + str(os.getpid()), "wb").write(sys.stdin.buffer.read())
sys.stdout.buffer.write(CodeGeneratorResponse(supported_features=1).SerializeToString())
"""


def generate(template: str, out: Path, *, plugins: Path | None = None) -> None:
    """Run buf with a template of the repository, into a folder of the test's own."""
    path = os.pathsep.join(str(one) for one in (plugins, BUF.parent, os.environ["PATH"]) if one)
    done = subprocess.run(
        [BUF, "generate", "--template", template, "--output", out],
        cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_python_stubs_are_what_buf_makes_of_the_contract(tmp_path: Path) -> None:
    """To the byte, and what protoc itself writes: buf.gen.yaml is what `make generate` runs."""
    generate("buf.gen.yaml", tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*")}
    kept = {path.relative_to(ROOT): path.read_bytes() for path in (ROOT / "clients/python/billing").rglob("*_pb2*.py*")}
    kept = {path: content for path, content in kept.items() if path.suffix in {".py", ".pyi"}}
    assert made.keys() == kept.keys()
    assert made == kept


@pytest.mark.parametrize("plugin", ["protoc-gen-go", "protoc-gen-go-grpc"])
def test_the_template_for_go_asks_for_what_callers_use_in_a_module_of_ones_own(tmp_path: Path, plugin: str) -> None:
    """Go's plugins need a package's place in each file that is made, and leave Google's where Google has them."""
    for name in ("protoc-gen-go", "protoc-gen-go-grpc"):
        program = tmp_path / name
        program.write_text(RECORDER.format(python=sys.executable, record=str(tmp_path / "asked-of") + f"-{name}"))
        program.chmod(0o755)
    generate("buf.gen.go.yaml", tmp_path / "out", plugins=tmp_path)
    asked = [CodeGeneratorRequest.FromString(one.read_bytes()) for one in tmp_path.glob(f"asked-of-{plugin}.*")]
    packages = {file.name: file.options.go_package for one in asked for file in one.proto_file}
    assert {name for one in asked for name in one.file_to_generate} == PUBLIC
    assert {packages[name] for name in PUBLIC} == {f"{PREFIX}/{folder};{name}" for folder, name in FOLDERS.items()}
    assert packages["google/api/field_behavior.proto"].startswith("google.golang.org/genproto/")
    assert {one.parameter for one in asked} == {"paths=source_relative"}


def test_the_clients_have_one_version() -> None:
    """Both are made of one contract: a version says which."""
    python = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]["version"]
    typescript = [
        json.loads((ROOT / "clients/typescript" / name).read_text())["version"]
        for name in ("package.json", "package-lock.json")
    ]
    assert typescript == [python, python]
