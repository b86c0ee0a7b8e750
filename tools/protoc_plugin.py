"""The generators inside grpcio-tools' protoc as plugins for buf: `python -m tools.protoc_plugin python` (or `grpc_python`).

Neither is a program of its own. This reads a plugin's request from standard input, hands the files that it describes to that
protoc, and answers with what was written: the same bytes as from protoc itself. Needs grpcio-tools and nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

GENERATORS = frozenset({"python", "grpc_python"})
_LIMIT_S = 60


def generate(generator: str, request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Give the files, by their paths below the output, or protoc's complaint as the response's error."""
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    for file in request.proto_file:
        _drop_derived_names(file)
    with TemporaryDirectory() as folder:
        described, out = Path(folder, "protos.binpb"), Path(folder, "out")
        described.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out.mkdir()
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--descriptor_set_in={described}",
            f"--{generator}_out={out}",
        ]
        done = subprocess.run(  # noqa: S603 - our own interpreter, and files that buf names
            [*command, *request.file_to_generate], capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
        if done.returncode:
            response.error = done.stderr.strip() or f"protoc ended with {done.returncode}"
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text(encoding="utf-8"))
    return response


def _drop_derived_names(file: FileDescriptorProto) -> None:
    """Take out the JSON names that buf writes out and protoc derives: it would take them for ones set by hand."""
    messages = list(_all_messages(file.message_type))
    extensions = [*file.extension, *(one for message in messages for one in message.extension)]
    for field in [*extensions, *(one for message in messages for one in message.field)]:
        if field.json_name == _derived(field.name):
            field.ClearField("json_name")


def _all_messages(messages: Iterable[DescriptorProto]) -> Iterable[DescriptorProto]:
    for message in messages:
        yield message
        yield from _all_messages(message.nested_type)


def _derived(name: str) -> str:
    return re.sub("_+(.?)", lambda found: found[1].upper(), name)


def main() -> int:
    """Answer one request."""
    generator = sys.argv[1] if len(sys.argv) == 2 else ""
    if generator not in GENERATORS:
        sys.stderr.write(f"Say which generator: {' or '.join(sorted(GENERATORS))}.\n")
        return 2
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(generator, request).SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main())
