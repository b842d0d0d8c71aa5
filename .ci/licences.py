#!/usr/bin/env python3
"""Holds the licence of every dependency, on every platform, against the list in .deny.toml.

cargo-deny does the same and more; it takes long to build, and this needs CPython 3.11 alone.
"""
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences; AND binds before OR."""
    # Crates of old write `MIT/Apache-2.0` and mean OR.
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def peek():
        return tokens[position] if position < len(tokens) else None

    def take():
        nonlocal position
        position += 1
        return tokens[position - 1]

    def either():
        met = both()
        while peek() == "OR":
            take()
            # Not `or`: the right side must be read in any case.
            met |= both()
        return met

    def both():
        met = single()
        while peek() == "AND":
            take()
            met &= single()
        return met

    def single():
        if peek() in (None, ")", "OR", "AND", "WITH"):
            raise ValueError(f'"{expression}" is not a licence expression')
        if peek() == "(":
            take()
            met = either()
            if peek() != ")":
                raise ValueError(f'"{expression}" lacks a closing parenthesis')
            take()
            return met
        name = take()
        if peek() == "WITH":
            take()
            if peek() in (None, "(", ")", "OR", "AND", "WITH"):
                raise ValueError(f'"{expression}" is not a licence expression')
            # An exception widens what its licence permits.
            return f"{name} WITH {take()}" in allowed or name in allowed
        return name in allowed

    met = either()
    if peek() is not None:
        raise ValueError(f'"{expression}" is not a licence expression')
    return met


def check_the_reader():
    """The reader of expressions must be right before its answers count."""
    allowed = {"MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"}
    cases = {
        "MIT": True,
        "GPL-3.0-only": False,
        "GPL-3.0-only OR MIT": True,
        "MIT AND GPL-3.0-only": False,
        "MIT OR GPL-3.0-only AND GPL-2.0-only": True,
        "(MIT OR GPL-3.0-only) AND GPL-2.0-only": False,
        "(MIT OR Apache-2.0) AND Zlib": True,
        "MIT/GPL-3.0-only": True,
        "Apache-2.0": False,
        "Apache-2.0 WITH LLVM-exception": True,
        "MIT WITH Anything-exception": True,
        "GPL-3.0-only WITH LLVM-exception": False,
    }
    for expression, expected in cases.items():
        assert is_allowed(expression, allowed) == expected, expression
    for expression in ("", "MIT OR", "(MIT", "MIT)", "MIT Zlib"):
        try:
            is_allowed(expression, allowed)
        except ValueError:
            continue
        raise AssertionError(f'"{expression}" was accepted')


def main():
    check_the_reader()
    allowed = set(tomllib.loads((ROOT / ".deny.toml").read_text())["licenses"]["allow"])
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--all-features"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    packages = json.loads(done.stdout)["packages"]
    refused = []
    for package in packages:
        expression = package["license"]
        try:
            fine = expression is not None and is_allowed(expression, allowed)
        except ValueError:
            fine = False
        if not fine:
            refused.append(f'{package["name"]} {package["version"]}: {expression or "no licence given"}')
    print(f"{len(packages)} packages, {len(refused)} with a licence outside .deny.toml's list")
    print("\n".join(refused), end="\n" if refused else "")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
