#!/usr/bin/env python3
"""Validates every captured SOAP message with xmllint; an XOP Include is put in place as base64 first."""
import pathlib
import re
import subprocess
import sys

folder, schema = pathlib.Path(sys.argv[1]), sys.argv[2]
files = sorted(folder.glob("*.xml"))
for file in files:
    text = file.read_text()
    file.write_text(re.sub(r"<(?:\w+:)?Include[^>]*/>", "AA==", text))
bad = 0
for start in range(0, len(files), 50):
    run = subprocess.run(
        ["xmllint", "--nonet", "--noout", "--schema", schema, *map(str, files[start:start + 50])],
        capture_output=True, text=True,
    )
    failures = [line for line in run.stderr.splitlines() if "fails to validate" in line or "validity error" in line]
    bad += sum("fails to validate" in line for line in failures)
    print("\n".join(failures[:20]), end="")
print(f"{len(files)} messages, {bad} invalid")
sys.exit(bad > 0 or len(files) < 20)
