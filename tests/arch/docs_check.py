#!/usr/bin/python3
"""Checks the documents against the code: settings, RPCs, status codes and metrics that they name exist, and the reverse.

Usage: docs_check.py [ROOT]. Prints one line per violation and exits 1 when there is any. Standard library only. What a
running process exposes is compared with docs/metrics.md elsewhere (tests/integration/metrics).
"""

import glob
import os
import re
import sys

CONFIG = "proto/varve/v1/config.proto"
STORE = "proto/varve/v1/store.proto"
PROGRAMS = ("StoreConfig", "WorkerConfig")
CODE = re.compile(r"`([^`\n]+)`")
FIELD = re.compile(r"^\s*(?:repeated )?(\w+) (\w+) = \d+", re.M)
RPC = re.compile(r"^\s*rpc (\w+)\(", re.M)
METRIC_ROW = re.compile(r"^\| `(\w+)` \|", re.M)
ERROR_ROW = re.compile(r"^\| `([A-Z_]+)` \|", re.M)
METRIC = re.compile(r"(?:varve|grpc_server|process)_\w+$")
MADE = re.compile(r"\babsl::(\w+)Error\(")
# What becomes a result or an exit code before a caller sees it.
INNER_CODES = {"ABORTED"}
STATUS_CODES = {
    "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def settings(proto):
    """Paths of all settings: "listen", "host_tier.capacity_bytes"; and the groups: "host_tier"."""
    messages = {m.group(1): FIELD.findall(m.group(2))
                for m in re.finditer(r"^message (\w+) \{(.*?)^\}", proto, re.M | re.S)}
    paths, groups = set(), set()
    for program in PROGRAMS:
        for kind, name in messages.get(program, []):
            if kind in messages:
                groups.add(name)
                paths.update(f"{name}.{field}" for _, field in messages[kind])
            else:
                paths.add(name)
    return paths, groups


def check_settings(path, text, paths, groups):
    problems = []
    for code in CODE.findall(text):
        match = re.match(r"(?:--)?(\w+)\.(\w+)(?:=|$)", code)
        if match and match.group(1) in groups and f"{match.group(1)}.{match.group(2)}" not in paths:
            problems.append(f"{path}: `{code}` is no setting")
    return problems


def check_metrics(path, text, families):
    named = {re.split(r"[{ ]", code)[0] for code in CODE.findall(text)}
    named = {name for name in named if METRIC.match(name)}
    known = families | {f"{f}_{part}" for f in families for part in ("bucket", "sum", "count")}
    return [f"{path}: `{name}` is no metric of docs/metrics.md" for name in sorted(named - known)]


def check_rpcs(text, proto):
    words = {word for code in CODE.findall(text) for word in re.findall(r"\w+", code)}
    return [f"docs/protocol.md: does not name the RPC {name}" for name in RPC.findall(proto) if name not in words]


def snake(camel):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", camel).upper()


def check_codes(text, made):
    rows = set(ERROR_ROW.findall(text))
    problems = [f"docs/errors.md: {code} is no status code" for code in sorted(rows - STATUS_CODES)]
    problems += [f"docs/errors.md: {code} is made nowhere" for code in sorted(rows & STATUS_CODES - made)]
    return problems + [f"docs/errors.md: {code} is missing" for code in sorted(made - rows - INNER_CODES)]


def codes_made(root):
    codes = set()
    for room in ("kvstore", "client", "gpu_worker"):
        for path in glob.glob(os.path.join(root, room, "**", "*.cc"), recursive=True):
            codes.update(snake(name) for name in MADE.findall(read(root, path)))
    return codes & STATUS_CODES


def check(root):
    paths, groups = settings(read(root, CONFIG))
    families = set(METRIC_ROW.findall(read(root, "docs/metrics.md")))
    problems = check_rpcs(read(root, "docs/protocol.md"), read(root, STORE))
    problems += check_codes(read(root, "docs/errors.md"), codes_made(root))
    for name in sorted(glob.glob(os.path.join(root, "docs", "*.md")) + [os.path.join(root, "README.md")]):
        path = os.path.relpath(name, root)
        text = read(root, path)
        problems += check_settings(path, text, paths, groups) + check_metrics(path, text, families)
    return problems


def main():
    root = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else os.path.abspath(f"{os.path.dirname(__file__)}/../..")
    problems = check(root)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
