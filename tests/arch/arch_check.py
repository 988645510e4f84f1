#!/usr/bin/python3
"""Checks the structure of the tree: arrows between rooms, agreed names, file sizes, leftovers.

Usage: arch_check.py [ROOT]. Prints one line per violation and exits 1 when there is any. Standard library only.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

# Which rooms a room may know: along these arrows, one or several. Every room may know base, except page.
ARROWS = {
    "base": set(),
    "proto": set(),
    "page": set(),
    "transport": {"base"},
    "tier": {"base", "page"},
    "store": {"base", "page", "tier"},
    "recall": {"base", "page", "store"},
    "server": {"base", "recall", "store", "transport", "proto"},
    "client": {"base", "page", "transport", "proto"},
    "bench": {"client", "gpu_worker", "page", "store", "tier", "transport"},
    "gpu_worker": {"base", "client", "page", "transport"},
}

# Where a room lives; the same prefixes name it in #include lines.
ROOM_OF_PREFIX = {
    "kvstore/base/": "base",
    "kvstore/page/": "page",
    "kvstore/transport/": "transport",
    "kvstore/tier/": "tier",
    "kvstore/store/": "store",
    "kvstore/recall/": "recall",
    "kvstore/server/": "server",
    "client/bench/": "bench",  # before client/: the first that fits counts
    "client/": "client",
    "gpu_worker/": "gpu_worker",
    "proto/": "proto",
    "varve/v1/": "proto",  # generated headers
}

# page stands alone: C++ standard headers (no slash, no extension), CPU intrinsics, and in the CUDA twins the runtime.
PAGE_SYSTEM_HEADERS = {"immintrin.h", "cpuid.h", "nmmintrin.h", "wmmintrin.h"}
PAGE_CUDA_HEADERS = {"cuda_runtime.h", "cuda_runtime_api.h", "cuda_bf16.h", "cuda_fp16.h", "mma.h"}
# One library, headers only, in one file: for the decomposition that low-rank keys need.
PAGE_EIGEN_FILE = "kvstore/page/lowrank/symmetric_eigen.cc"
PAGE_LINKS = {"varve_options", "Threads::Threads", "CUDA::cudart_static", "Eigen3::Eigen"}

TOP_LEVEL = {
    "CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", ".ci", ".clang-format", ".clang-tidy", ".gitignore",
    "proto", "kvstore", "gpu_worker", "client", "deploy", "tests", "docs",
}
KVSTORE_FOLDERS = {"base", "page", "transport", "tier", "store", "recall", "server", "cmake"}
UNTRACKED_TOP_LEVEL = {".git", ".cache", "build"}

# What needs a device or an io_uring of the kernel's, which a machine may lack, says so and skips.
MAY_SKIP = ("tests/parity/", "tests/unit/tier/uring_registry_test.cc")

CODE = (".h", ".cc", ".cu", ".cuh")
SCRIPTS = (".py", ".sh")
MAX_LINES = 500
# Spelled in halves so that this file passes its own check.
LEFTOVERS = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b|\bDISABLED" r"_|\bGTEST_" r"SKIP|^[ \t]*#[ \t]*if 0\b", re.M)
DOC_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
DOC_CODE = re.compile(r"`([^`\s]+)`")
DOC_PATH = re.compile(r"(?:proto|kvstore|gpu_worker|client|deploy|tests|docs)/[\w./*-]*$|[\w-]+\.md$")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)
TARGET = re.compile(r"\b(?:varve_library|varve_binary|varve_benchmark|varve_cuda_library|add_library|add_executable)"
                    r"\s*\(\s*([\w.+-]+)")
LINK_CALL = re.compile(r"\b(?:varve_library|varve_binary|varve_benchmark|varve_cuda_library|target_link_libraries)"
                       r"\s*\(([^)]*)\)")


def closure(arrows):
    """Every room's reachable rooms."""
    reach = {}
    for room in arrows:
        seen, todo = set(), list(arrows[room])
        while todo:
            other = todo.pop()
            if other not in seen:
                seen.add(other)
                todo.extend(arrows[other])
        reach[room] = seen
    return reach


def room_of(path):
    for prefix, room in ROOM_OF_PREFIX.items():
        if path.startswith(prefix):
            return room
    return None


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
        return file.read()


def files_of(root):
    """Paths of the tree's files, relative, without build outputs."""
    found = []
    for folder, folders, names in os.walk(root):
        relative = os.path.relpath(folder, root)
        if relative == ".":
            folders[:] = [f for f in folders if f in TOP_LEVEL]
            relative = ""
        folders[:] = [f for f in folders if f != "__pycache__"]
        found.extend(os.path.join(relative, name) for name in names)
    return sorted(found)


def top_level_names(root):
    """What the project puts into its root: tracked names, or all names outside a git checkout or without git."""
    if os.path.exists(os.path.join(root, ".git")) and shutil.which("git"):
        listing = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, check=False)
        if listing.returncode == 0:
            return {name.split("/")[0] for name in listing.stdout.decode().split("\0") if name}
    return set(os.listdir(root)) - UNTRACKED_TOP_LEVEL


def check_table():
    reach = closure(ARROWS)
    return [f"arrows: {room} reaches itself" for room in ARROWS if room in reach[room]]


def check_names(root):
    problems = [f"{name}: not an agreed top-level name" for name in sorted(top_level_names(root) - TOP_LEVEL)]
    kvstore = os.path.join(root, "kvstore")
    for name in sorted(os.listdir(kvstore)) if os.path.isdir(kvstore) else []:
        if name not in KVSTORE_FOLDERS:
            problems.append(f"kvstore/{name}: not a room; rooms: {', '.join(sorted(KVSTORE_FOLDERS))}")
    return problems


def check_page_include(path, name):
    system = "/" not in name and "." not in name
    allowed = name.startswith("kvstore/page/") or system or name in PAGE_SYSTEM_HEADERS
    cuda = path.endswith((".cu", ".cuh", "_cuda.h")) and name in PAGE_CUDA_HEADERS
    eigen = path == PAGE_EIGEN_FILE and name.startswith("Eigen/")
    return [] if allowed or cuda or eigen else [f"{path}: includes {name}; page knows the C++ standard library alone"]


def check_includes(root, files):
    reach, problems = closure(ARROWS), []
    for path in files:
        room = room_of(path)
        if room is None or not path.endswith(CODE):
            continue
        for _, name in INCLUDE.findall(read(root, path)):
            other = room_of(name)
            if name.startswith("tests/"):
                problems.append(f"{path}: includes {name}; rooms do not know the tests")
            elif os.path.exists(os.path.join(root, os.path.dirname(path), name)):
                problems.append(f"{path}: includes {name}; write the path from the root")
            elif room == "page":
                problems.extend(check_page_include(path, name))
            elif other is not None and other != room and other not in reach[room]:
                problems.append(f"{path}: includes {name}; {room} may know {', '.join(sorted(reach[room])) or 'no room'}")
    return problems


def cmake_text(root, path):
    return re.sub(r"#[^\n]*", "", read(root, path))


def check_links(root, files):
    reach, problems = closure(ARROWS), []
    lists = [(path, room_of(path), cmake_text(root, path)) for path in files
             if os.path.basename(path) == "CMakeLists.txt" and room_of(path)]
    room_of_target = {target: room for _, room, text in lists for target in TARGET.findall(text)}
    for path, room, text in lists:
        for body in LINK_CALL.findall(text):
            words = body.split()
            for word in words[1:]:
                other = room_of_target.get(word)
                if other is not None and other != room and other not in reach[room]:
                    problems.append(f"{path}: {words[0]} links {word}; {room} may know "
                                    f"{', '.join(sorted(reach[room])) or 'no room'}")
                foreign = "::" in word or (word.startswith("varve_") and other != room)
                if room == "page" and foreign and word not in PAGE_LINKS:
                    problems.append(f"{path}: {words[0]} links {word}; page may link {', '.join(sorted(PAGE_LINKS))}")
    return problems


def check_files(root, files):
    problems = []
    for path in files:
        if not path.endswith(CODE + SCRIPTS + (".proto", ".txt", ".cmake", ".md", ".yaml", ".yml")):
            continue
        text = read(root, path)
        for match in LEFTOVERS.finditer(text):
            if path.startswith(MAY_SKIP) and match.group().startswith("GTEST"):
                continue
            line = text.count("\n", 0, match.start()) + 1
            problems.append(f"{path}:{line}: leftover '{match.group().strip()}'")
        lines = text.count("\n")
        if path.endswith(CODE + SCRIPTS) and lines > MAX_LINES:
            problems.append(f"{path}: {lines} lines, at most {MAX_LINES}; is there a second file in there?")
    return problems


def doc_targets(path, text):
    """Paths that a document names, relative to the root or to the document."""
    for target in DOC_LINK.findall(text):
        if "://" not in target:
            yield os.path.join(os.path.dirname(path), target)
    for code in DOC_CODE.findall(text):
        if DOC_PATH.match(code):
            yield code if "/" in code else os.path.join(os.path.dirname(path), code)


def check_docs(root, files):
    problems = []
    for path in files:
        if not path.endswith(".md"):
            continue
        for target in sorted(set(doc_targets(path, read(root, path)))):
            if not glob.glob(os.path.join(root, target)):
                problems.append(f"{path}: names {target}, which does not exist")
    return problems


def check(root):
    files = files_of(root)
    return (check_table() + check_names(root) + check_includes(root, files) + check_links(root, files) +
            check_files(root, files) + check_docs(root, files))


def main():
    root = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else os.path.abspath(f"{os.path.dirname(__file__)}/../..")
    problems = check(root)
    for problem in problems:
        print(problem)
    print(f"{len(files_of(root))} files checked, {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
