"""The rules are checked: what breaks them is named, and what does not is left alone."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
LOADER = importlib.machinery.SourceFileLoader("rules", str(pathlib.Path(__file__).with_name("rules")))
rules = importlib.util.module_from_spec(importlib.util.spec_from_loader("rules", LOADER))
LOADER.exec_module(rules)


class Sizes(unittest.TestCase):
    def test_only_tracked_files_over_the_bound_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            subprocess.run(["git", "init", "--quiet", folder], check=True)
            (root / "data").mkdir()
            (root / "data/large.bin").write_bytes(bytes(rules.FILE_BYTES_MAX + 1))
            (root / "data/bound.bin").write_bytes(bytes(rules.FILE_BYTES_MAX))
            (root / "deleted").write_bytes(b"")
            subprocess.run(["git", "add", "."], cwd=root, check=True)
            (root / "deleted").unlink()
            (root / "untracked.bin").write_bytes(bytes(rules.FILE_BYTES_MAX + 1))
            problems = []
            rules.check_sizes(root, problems)
            self.assertEqual(problems, ["data/large.bin: 512001 bytes, at most 512000 are tracked"])


class Lines(unittest.TestCase):
    def test_tests_and_comments_do_not_count(self):
        self.assertEqual(rules.lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2)
        self.assertEqual(rules.code_of("use a; // glommio"), "use a; ")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "--quiet"])
