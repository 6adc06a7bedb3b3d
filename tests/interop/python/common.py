"""What both clients share: where the running demonstration is, and lines of results."""
import hashlib
import json
import os
import pathlib
import subprocess

import pydicom

DEMO = pathlib.Path(os.environ.get("NCP_DEMO_DIR", pathlib.Path.home() / ".ncp-demo"))
# The Norwegian patient of the demonstration.
PATIENT_ID, PATIENT_ROOT = "30857710106", "2.16.578.1.12.4.1.4.1"


def archive():
    """SHA-256 of the pixels of each image that the Norwegian archive folder holds, by SOP Instance UID."""
    out = {}
    for path in (DEMO / "no" / "data" / "dicom").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        if "PixelData" in dataset:
            out[str(dataset.SOPInstanceUID)] = hashlib.sha256(dataset.PixelData).hexdigest()
    return out


def token(country="fi"):
    """A bearer token of the demonstration's issuer."""
    program = [os.environ.get("NCP", "target/release/ncp"), "token", "--country", country, "--dir", str(DEMO)]
    return subprocess.run(program, check=True, capture_output=True, text=True).stdout.strip()


class Steps:
    """Runs steps, one JSON line each; exit status 1 when one failed."""

    def __init__(self):
        self.failed = 0

    def run(self, name, step):
        try:
            facts = step()
            print(json.dumps({"step": name, "ok": True, "facts": facts}), flush=True)
            return facts
        except Exception as error:  # noqa: BLE001: whatever a library raises is the result of the step
            self.failed += 1
            print(json.dumps({"step": name, "ok": False, "error": f"{type(error).__name__}: {error}"}), flush=True)
            return None
