#!/usr/bin/python3
"""Plants one violation of each kind in a temporary tree and expects arch_check to name it."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import arch_check  # noqa: E402

# A tree without violations: every arrow used once.
GOOD = {
    "CMakeLists.txt": "add_subdirectory(kvstore/base)\n",
    "kvstore/base/CMakeLists.txt": "varve_library(varve_base SOURCES a.cc PUBLIC absl::status)\n",
    "kvstore/base/a.h": "#pragma once\n#include <string>\n",
    "kvstore/page/CMakeLists.txt": "varve_library(varve_page\n  SOURCES a.cc)  # links varve_base in no case\n",
    "kvstore/page/a.h": "#include <vector>\n#include <immintrin.h>\n",
    "kvstore/page/a_cuda.cu": '#include <cuda_runtime.h>\n#include "kvstore/page/a.h"\n',
    "kvstore/tier/CMakeLists.txt": "varve_library(varve_tier SOURCES a.cc PUBLIC varve_base)\n",
    "kvstore/tier/a.h": '#include "kvstore/base/a.h"\n',
    "kvstore/store/CMakeLists.txt": "varve_library(varve_store SOURCES a.cc PUBLIC varve_page varve_tier)\n",
    "kvstore/store/a.cc": '#include "kvstore/tier/a.h"\n#include "kvstore/page/a.h"\n#include "absl/status/status.h"\n',
    "kvstore/server/CMakeLists.txt": "varve_library(varve_server SOURCES a.cc PUBLIC varve_store)\n",
    "kvstore/server/a.cc": '#include "kvstore/tier/a.h"\n#include "varve/v1/store.grpc.pb.h"\n',
    "client/CMakeLists.txt": "varve_library(varve_client SOURCES a.cc PUBLIC varve_page varve_base)\n",
    "client/a.h": '#include "kvstore/page/a.h"\n',
    "gpu_worker/a.cc": '#include "client/a.h"\n#include "varve/v1/worker.pb.h"\n',
    "tests/a_test.cc": '#include "kvstore/server/a.h"\n#include "gpu_worker/a.h"\n',
}


class ArchCheckTest(unittest.TestCase):
    def problems(self, changes):
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**GOOD, **changes}.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as file:
                    file.write(text)
            return arch_check.check(root)

    def expect(self, changes, *fragments):
        problems = self.problems(changes)
        self.assertEqual(len(problems), 1, problems)
        for fragment in fragments:
            self.assertIn(fragment, problems[0])

    def test_good_tree_has_no_problems(self):
        self.assertEqual(self.problems({}), [])

    def test_every_forbidden_pair_of_rooms_is_found(self):
        reach = arch_check.closure(arch_check.ARROWS)
        folders = {room: prefix for prefix, room in arch_check.ROOM_OF_PREFIX.items() if prefix != "varve/v1/"}
        for room, folder in folders.items():
            for other, other_folder in folders.items():
                if other == room or other in reach[room]:
                    continue
                with self.subTest(room=room, other=other):
                    path = f"{folder}planted.cc"
                    self.expect({path: f'#include "{other_folder}b.h"\n'}, path, f"includes {other_folder}b.h")

    def test_generated_proto_headers_belong_to_proto(self):
        self.expect({"kvstore/store/b.cc": '#include "varve/v1/store.pb.h"\n'}, "kvstore/store/b.cc")

    def test_page_stands_alone(self):
        for name in ("absl/status/status.h", "sys/mman.h", "kvstore/base/a.h", "cuda_runtime.h"):
            with self.subTest(name=name):
                self.expect({"kvstore/page/b.cc": f"#include <{name}>\n"}, "kvstore/page/b.cc", name)
        self.expect({"kvstore/page/CMakeLists.txt": "varve_library(varve_page SOURCES a.cc PUBLIC absl::span)\n"},
                    "absl::span")

    def test_page_linking_base(self):
        problems = self.problems({"kvstore/page/CMakeLists.txt":
                                  "varve_library(varve_page SOURCES a.cc)\n"
                                  "target_link_libraries(varve_page PUBLIC varve_base)\n"})
        self.assertTrue(any("links varve_base" in problem for problem in problems), problems)

    def test_includes_against_spacing_and_brackets(self):
        self.expect({"kvstore/tier/b.h": "  #  include <kvstore/store/a.h>\n"}, "kvstore/store/a.h")

    def test_link_against_an_arrow(self):
        self.expect({"client/CMakeLists.txt": "varve_library(varve_client SOURCES a.cc PRIVATE varve_server)\n"},
                    "client/CMakeLists.txt", "links varve_server")

    def test_rooms_do_not_include_tests(self):
        self.expect({"client/b.cc": '#include "tests/support/a.h"\n'}, "tests/support/a.h")

    def test_relative_include(self):
        self.expect({"client/b.cc": '#include "a.h"\n'}, "path from the root")

    def test_top_level_name(self):
        self.expect({"scripts/x.sh": "true\n"}, "scripts")
        self.expect({"notes.txt": "x\n"}, "notes.txt")

    def test_unknown_room(self):
        self.expect({"kvstore/misc/a.h": "\n"}, "kvstore/misc")

    def test_leftovers(self):
        for text in ("// TO" "DO: later", "int x;  // FIX" "ME", "#if 0", "TEST(A, DISABLED" "_B) {}", "GTEST_" "SKIP();"):
            with self.subTest(text=text):
                self.expect({"client/b.cc": f"\n{text}\n"}, "client/b.cc:2", "leftover")

    def test_only_what_needs_a_device_may_skip(self):
        self.assertEqual(self.problems({"tests/parity/b.cc": "GTEST_" "SKIP();\n"}), [])
        self.expect({"tests/parity/b.cc": "// TO" "DO\n"}, "leftover")
        self.expect({"tests/unit/b.cc": "GTEST_" "SKIP();\n"}, "leftover")

    def test_cuda_headers_only_in_cuda_twins(self):
        text = "#include <cuda_runtime_api.h>\n"
        self.assertEqual(self.problems({"kvstore/page/b_cuda.h": text}), [])
        self.expect({"kvstore/page/b.h": text}, "cuda_runtime_api.h")

    def test_eigen_only_where_it_is_needed(self):
        text = "#include <Eigen/Eigenvalues>\n"
        self.assertEqual(self.problems({arch_check.PAGE_EIGEN_FILE: text}), [])
        self.expect({"kvstore/page/lowrank/b.cc": text}, "kvstore/page/lowrank/b.cc", "Eigen/Eigenvalues")
        self.assertEqual(self.problems({"kvstore/page/CMakeLists.txt":
                                        "varve_library(varve_page SOURCES a.cc PRIVATE Eigen3::Eigen)\n"}), [])

    def test_long_file(self):
        self.expect({"client/b.cc": "\n" * 501}, "501 lines")
        self.assertEqual(self.problems({"client/b.cc": "\n" * 500}), [])

    def test_documents_name_what_exists(self):
        good = "See [a](../client/a.h#top), [web](https://x.y), `client/*.h`, `kvstore/page/`, `b.md`, `varve_page`.\n"
        self.assertEqual(self.problems({"docs/a.md": good, "docs/b.md": "\n"}), [])
        for text in ("[a](gone.md)", "`client/gone.h`", "`gone.md`", "`docs/gone/*.md`"):
            with self.subTest(text=text):
                self.expect({"docs/a.md": text + "\n"}, "docs/a.md", "gone", "does not exist")

    def test_cycle_in_the_table(self):
        arch_check.ARROWS["base"].add("server")
        try:
            self.assertIn("arrows: server reaches itself", arch_check.check_table())
        finally:
            arch_check.ARROWS["base"].discard("server")


if __name__ == "__main__":
    unittest.main()
