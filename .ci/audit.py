"""Ask a vulnerability service about every installed package; status 1 if it knows of one.

Where no service can be reached this says so on standard error, and does not fail: nothing is known then, neither good
nor bad. Run it with a Python that has pip-audit, and with the audited one in PIPAPI_PYTHON_LOCATION.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

PATIENCE = 300  # seconds


def main(arguments: list[str]) -> int:
    """Print what was found; the exit status. Arguments go to pip-audit, as `--ignore-vuln ID`."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--skip-editable", "--timeout=10", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        packages = []
    lines, status = verdict(packages)
    print("\n".join(lines), file=sys.stderr)
    return status


def verdict(packages: Iterable[Mapping[str, Any]]) -> tuple[list[str], int]:
    """What to say of a report of pip-audit, and the exit status."""
    audited = [package for package in packages if "vulns" in package]
    skipped = [package["name"] for package in packages if "vulns" not in package]
    if not audited:
        return ["", "*** NOT AUDITED: no vulnerability service can be reached ***", ""], 0
    found = [
        f"{package['name']} {package['version']}: {known['id']}, mended in {', '.join(known['fix_versions']) or 'none'}"
        for package in audited
        for known in package["vulns"]
    ]
    lines = [f"{len(audited)} packages audited, {len(found)} known vulnerabilities", *found]
    if skipped:
        lines.append(f"*** NOT AUDITED, because the service does not know them: {', '.join(sorted(skipped))} ***")
    return lines, 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
