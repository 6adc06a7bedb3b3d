#!/usr/bin/env python3
"""Checks the licences of all crates against the list of deny.toml."""
import json
import re
import subprocess
import sys
import tomllib

with open("deny.toml", "rb") as file:
    allowed = set(tomllib.load(file)["licenses"]["allow"])
metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"],
        check=True, capture_output=True,
    ).stdout
)


def fits(expression: str) -> bool:
    """SPDX: OR is satisfied by one side, AND by both; brackets are taken apart by the split on the outer operator."""
    expression = expression.replace("/", " OR ").strip()
    while expression.startswith("(") and expression.endswith(")"):
        expression = expression[1:-1]
    depth = 0
    for operator in (" AND ", " OR "):
        for index in range(len(expression)):
            depth += {"(": 1, ")": -1}.get(expression[index], 0)
            if depth == 0 and expression.startswith(operator, index):
                left, right = expression[:index], expression[index + len(operator):]
                return (fits(left) and fits(right)) if operator == " AND " else (fits(left) or fits(right))
    return re.sub(r"\s+", " ", expression) in allowed


bad = [
    f"{package['name']} {package['version']}: {package['license']}"
    for package in metadata["packages"]
    if not package["license"] or not fits(package["license"])
]
print("\n".join(bad) if bad else f"{len(metadata['packages'])} packages, all licences allowed")
sys.exit(bool(bad))
