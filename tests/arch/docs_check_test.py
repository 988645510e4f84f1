#!/usr/bin/python3
"""Plants one violation of each kind in a small tree and expects docs_check to name it."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import docs_check  # noqa: E402

GOOD = {
    "proto/varve/v1/config.proto":
        "message StoreConfig {\n  string listen = 1 [(help) = \"a\"];\n  TierConfig tier = 2;\n}\n"
        "message TierConfig {\n  repeated uint64 bytes = 1;\n}\n",
    "proto/varve/v1/store.proto": "service Store {\n  rpc Put(PutRequest) returns (PutReply);\n}\n",
    "kvstore/a.cc": 'return absl::NotFoundError("x");\n',
    "README.md": "`--tier.bytes=1GiB`\n",
    "docs/errors.md": "| `NOT_FOUND` | gone | |\n",
    "docs/metrics.md": "| `varve_a_seconds` | histogram | | x |\n",
    "docs/operations.md": "`tier.bytes`, `varve_a_seconds_sum`, `varve_a_seconds{x=\"y\"}`\n",
    "docs/protocol.md": "- `Put`: stores\n",
}


class DocsCheckTest(unittest.TestCase):
    def problems(self, changes):
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**GOOD, **changes}.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as file:
                    file.write(text)
            return docs_check.check(root)

    def expect(self, changes, problem):
        self.assertEqual(self.problems(changes), [problem])

    def test_good_tree_has_no_problems(self):
        self.assertEqual(self.problems({}), [])

    def test_each_kind(self):
        self.expect({"README.md": "`tier.byte`\n"}, "README.md: `tier.byte` is no setting")
        self.expect({"docs/operations.md": "`varve_b_total`\n"},
                    "docs/operations.md: `varve_b_total` is no metric of docs/metrics.md")
        self.expect({"docs/protocol.md": "Put\n"}, "docs/protocol.md: does not name the RPC Put")
        self.expect({"docs/errors.md": GOOD["docs/errors.md"] + "| `LOST` | | |\n"},
                    "docs/errors.md: LOST is no status code")
        self.expect({"docs/errors.md": GOOD["docs/errors.md"] + "| `ABORTED` | | |\n"},
                    "docs/errors.md: ABORTED is made nowhere")
        self.expect({"client/a.cc": 'return absl::DataLossError("x");\n'}, "docs/errors.md: DATA_LOSS is missing")


if __name__ == "__main__":
    unittest.main()
