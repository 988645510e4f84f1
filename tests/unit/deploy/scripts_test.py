#!/usr/bin/python3
"""The commands of the README and the image recipes, as far as they can be checked without running them whole."""

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
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

    def test_run_names_the_labels_that_there_are(self):
        used = set()
        for folder, _, files in os.walk(os.path.join(ROOT, "tests")):
            if "CMakeLists.txt" in files:
                used.update(re.findall(r"LABELS? ([a-z]+)", text_of(os.path.join(folder, "CMakeLists.txt"))))
        shown = re.search(r"whose label matches: (.*)", text_of("tests/run.sh")).group(1)
        self.assertEqual(set(shown.split(", ")), used)
        quick = re.search(r"--quick\) label='\^\((.*)\)\$'", text_of("tests/run.sh")).group(1)
        self.assertLess(set(quick.split("|")), used)

    def test_ci_runs_the_test_command_of_the_readme(self):
        self.assertIn("\n./tests/run.sh\n", text_of(".ci/run"))
        for command in ("./deploy/quickstart.sh", "./tests/run.sh"):
            self.assertIn(command, text_of("README.md"))

    def test_package_list_is_sane(self):
        packages = run("./deploy/install_deps.sh", "--tests", "--list").stdout.split()
        self.assertGreater(len(packages), 20)
        self.assertEqual(len(packages), len(set(packages)))


class QuickstartTest(unittest.TestCase):
    """The script in a checkout of its own, where nothing is installed, built or started."""

    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        for folder in ("deploy", "build/quickstart", "build/release/bin"):
            os.makedirs(os.path.join(self.root, folder))
        shutil.copy(os.path.join(ROOT, "deploy/quickstart.sh"), os.path.join(self.root, "deploy"))

    def path(self, name):
        return os.path.join(self.root, "build", name)

    def quickstart(self, *options):
        return subprocess.run(
            ["./deploy/quickstart.sh", *options], cwd=self.root, capture_output=True, text=True, timeout=60, check=False)

    def keep_a_store(self):
        shutil.copy(shutil.which("sleep"), self.path("release/bin/varve-store"))
        store = subprocess.Popen([self.path("release/bin/varve-store"), "60"])
        self.addCleanup(store.wait)
        self.addCleanup(store.kill)
        with open(self.path("quickstart/pids"), "w", encoding="utf-8") as pids:
            pids.write(f"{store.pid} varve-store\n")
        return store

    def test_kept_processes_are_not_stopped_unasked(self):
        store = self.keep_a_store()
        refused = self.quickstart()
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn(f"left varve-store ({store.pid}) running; deploy/quickstart.sh --stop", refused.stderr)
        self.assertIsNone(store.poll())
        self.assertEqual(refused.stdout, "")

        # A child that has ended but was not waited for still counts as running.
        waiter = threading.Thread(target=store.wait)
        waiter.start()
        self.assertEqual(self.quickstart("--stop").returncode, 0)
        waiter.join(timeout=60)
        self.assertEqual(store.returncode, -signal.SIGTERM)

    def test_one_run_at_a_time(self):
        with open(self.path("quickstart/lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            refusals = [self.quickstart(), self.quickstart("--stop")]
        for refused in refusals:
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("another run is going on", refused.stderr)
            self.assertEqual(refused.stdout, "")


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
