#!/usr/bin/python3
"""The commands of the README and the image recipes, as far as they can be checked without running them whole."""

import os
import re
import shlex
import subprocess
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
SCRIPTS = ["deploy/install_deps.sh", "deploy/quickstart.sh", "tests/run.sh", ".ci/run"]
WITH_OPTIONS = SCRIPTS[:3]
IMAGES = ["deploy/docker/store.Dockerfile", "deploy/docker/worker.Dockerfile"]


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


class ScriptsTest(unittest.TestCase):
    def test_scripts_are_executable_and_parse(self):
        for script in SCRIPTS:
            with self.subTest(script=script):
                self.assertTrue(os.access(os.path.join(ROOT, script), os.X_OK))
                self.assertEqual(run("bash", "-n", script).stderr, "")

    def test_help_names_every_option_and_others_are_refused(self):
        for script in WITH_OPTIONS:
            with self.subTest(script=script):
                shown = run(f"./{script}", "--help")
                self.assertEqual(shown.returncode, 0, shown.stderr)
                for option in re.findall(r"^ *(--[a-z-]+)\)", text_of(script), re.M):
                    self.assertIn(option, shown.stdout)
                refused = run(f"./{script}", "--no-such-option")
                self.assertNotEqual(refused.returncode, 0)
                self.assertIn("unknown option '--no-such-option'", refused.stderr)

    def test_run_names_the_presets_it_knows(self):
        refused = run("./tests/run.sh", "--preset", "fast")
        self.assertEqual(refused.returncode, 2)
        self.assertIn("allowed: dev, release, asan, tsan, ubsan", refused.stderr)

    def test_ci_runs_the_test_command_of_the_readme(self):
        self.assertIn("\n./tests/run.sh\n", text_of(".ci/run"))
        for command in ("./deploy/quickstart.sh", "./tests/run.sh"):
            self.assertIn(command, text_of("README.md"))

    def test_package_list_is_sane(self):
        packages = run("./deploy/install_deps.sh", "--tests", "--list").stdout.split()
        self.assertGreater(len(packages), 20)
        self.assertEqual(len(packages), len(set(packages)))


class ImagesTest(unittest.TestCase):
    def instructions(self, path):
        joined = text_of(path).replace("\\\n", " ")
        return [line.split(None, 1) for line in joined.splitlines() if line and not line.startswith("#")]

    def test_images(self):
        for path in IMAGES:
            with self.subTest(image=path):
                lines = self.instructions(path)
                copied = []
                for name, rest in lines:
                    if name == "COPY" and not rest.startswith("--from="):
                        *sources, target = shlex.split(rest)
                        copied.append(target)
                        for source in sources:
                            self.assertTrue(os.path.exists(os.path.join(ROOT, source)), source)
                self.assertEqual([rest for name, rest in lines if name == "USER"], ["65532:65532"])
                self.assertTrue(all(rest.split()[0].startswith("debian:bookworm") for name, rest in lines if name == "FROM"))
                config = re.search(r"--config=([^\"]+)", dict(lines)["CMD"]).group(1)
                self.assertIn(config, copied)


if __name__ == "__main__":
    unittest.main()
