"""Runs the mutations of the tables (*.toml) beside this file: see tests/mutations.sh.

The sources are copied to target/mutations/source and all changes are made there at once. Each is behind a test of the
environment variable NCP_MUTATION, so that there is one build, and each run takes one check out.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "mutations"
PACKAGES = ["ncp-proto", "ncp-xml", "ncp-soap", "ncp-saml", "ncp-ihe", "ncp-tls", "ncp-audit", "ncp-gateway", "ncp-tests"]
LIBRARIES = {name.removeprefix("ncp-") for name in PACKAGES}
# A mutated program that hangs is caught, but not by what it should be.
LIMIT_S = 900


def table():
    changes, mutations = [], []
    for path in sorted((ROOT / "tests/mutations").glob("*.toml")):
        text = tomllib.loads(path.read_text())
        changes += text["change"]
        mutations += text["mutation"]
    ids = [m["id"] for m in mutations]
    named = {i for c in changes for i in re.findall(r"OUT\(([a-z0-9-]+)\)", c["put"])}
    wrong = [f"{i}: twice" for i in ids if ids.count(i) > 1]
    wrong += [f"{i}: in one half of the table only" for i in named ^ set(ids)]
    if wrong:
        sys.exit("\n".join(wrong))
    return changes, mutations


def mutated(changes):
    """The changed files' texts by path."""
    texts, wrong = {}, []
    for change in changes:
        path = change["file"]
        text = texts.get(path) or (ROOT / path).read_text()
        if text.count(change["find"]) != 1:
            wrong.append(f"{path}: {text.count(change['find'])} times: {change['find']}")
            continue
        out = lambda m: f'std::env::var("NCP_MUTATION").is_ok_and(|m| m == "{m.group(1)}")'
        texts[path] = text.replace(change["find"], re.sub(r"OUT\(([a-z0-9-]+)\)", out, change["put"]))
    if wrong:
        sys.exit("\n".join(wrong))
    return texts


def copied(texts):
    """The tree with the changes; what is as it was keeps its time, so that little is built again."""
    source = WORK / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    names = {n for n in listed.stdout.decode().split("\0") if n and (ROOT / n).is_file()}
    for old in list(source.rglob("*")) if source.exists() else []:
        if old.is_file() and str(old.relative_to(source)) not in names:
            old.unlink()
    for name in names:
        at, to = ROOT / name, source / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if name in texts:
            if not to.exists() or to.read_text() != texts[name]:
                to.write_text(texts[name])
            continue
        there = to.stat() if to.exists() else None
        if there is None or (there.st_mtime_ns, there.st_size) != (at.stat().st_mtime_ns, at.stat().st_size):
            shutil.copy2(at, to)
    return source


def built(source, names):
    """Test binaries by name, each with the folder of its package; two packages may have one of the same name."""
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json-render-diagnostics", "--lib"]
    command += [word for package in PACKAGES for word in ("-p", package)]
    command += [word for name in sorted(names - LIBRARIES) for word in ("--test", name)]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(WORK / "build"), "CARGO_INCREMENTAL": "1"}
    done = subprocess.run(command, cwd=source, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the mutated sources do not build")
    out = {}
    for line in done.stdout.splitlines():
        artifact = json.loads(line)
        if artifact.get("executable") and artifact["profile"]["test"]:
            name = artifact["target"]["name"].removeprefix("ncp_")
            out.setdefault(name, []).append((artifact["executable"], pathlib.Path(artifact["manifest_path"]).parent))
    return out


def run(binaries, test, mutation=None):
    """Whether the test passes, how many there were, and the first that failed."""
    binary, name = test.split(" ", 1)
    environment = {k: v for k, v in os.environ.items() if k != "NCP_MUTATION"}
    if mutation:
        environment["NCP_MUTATION"] = mutation
    count = 0
    for executable, folder in binaries[binary]:
        try:
            done = subprocess.run(
                [executable, name], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return False, 1, f"{test} (no end)"
        ran = re.search(r"(\d+) passed; (\d+) failed", done.stdout)
        failed = re.search(r"^test (\S+) \.\.\. FAILED", done.stdout, re.MULTILINE)
        count += sum(int(n) for n in ran.groups()) if ran else 0
        if done.returncode:
            return False, count, f"{binary} {failed.group(1)}" if failed else test
    return True, count, test


def main():
    changes, mutations = table()
    if sys.argv[1:]:
        mutations = [m for m in mutations if m["id"].startswith(tuple(sys.argv[1:]))]
    names = {test.split(" ", 1)[0] for m in mutations for test in m["tests"]}
    binaries = built(copied(mutated(changes)), names)
    wrong = []
    for test in sorted({t for m in mutations for t in m["tests"]}):
        passes, count, which = run(binaries, test)
        if not passes or not count:
            wrong.append(f"without a mutation: {which} does not pass" if count else f"no such test: {test}")
    if wrong:
        sys.exit("\n".join(wrong))
    caught, survived, unargued = 0, 0, 0
    for mutation in mutations:
        began = time.monotonic()
        by = None
        for test in mutation["tests"]:
            passes, _, which = run(binaries, test, mutation["id"])
            if not passes:
                by = which
                break
        line = {"mutation": mutation["id"], "invariant": mutation["invariant"], "check": mutation["check"], "caught_by": by}
        if by:
            caught += 1
        else:
            survived += 1
            unargued += "argued" not in mutation
            line["argued"] = mutation.get("argued")
        line["ms"] = int((time.monotonic() - began) * 1000)
        print(json.dumps(line), flush=True)
    print(f"{caught} caught, {survived} survived")
    sys.exit(1 if unargued else 0)


if __name__ == "__main__":
    main()
