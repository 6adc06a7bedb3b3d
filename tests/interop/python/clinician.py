#!/usr/bin/env python3
"""A professional's system in Finland: FHIR by requests, images by dicomweb-client, as their documentation shows it."""
import hashlib
import sys

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient

from common import DEMO, PATIENT_ID, PATIENT_ROOT, Steps, archive, token

BASE = "https://localhost:26444"
session = requests.Session()
session.trust_env = False  # else REQUESTS_CA_BUNDLE would replace the anchors of the demonstration
session.verify = str(DEMO / "fi" / "pki" / "anchors.pem")
session.headers["Authorization"] = f"Bearer {token()}"
state = {}


def post(url, body):
    answer = session.post(url, json=body, headers={"Content-Type": "application/fhir+json"}, timeout=30)
    answer.raise_for_status()
    return answer.json()


def match():
    """ITI-119."""
    patient = {"resourceType": "Patient", "identifier": [{"system": f"urn:oid:{PATIENT_ROOT}", "value": PATIENT_ID}]}
    bundle = post(f"{BASE}/fhir/Patient/$match", patient)
    found = [entry for entry in bundle["entry"] if entry["search"]["mode"] == "match"]
    assert len(found) == 1, bundle
    state["patient"] = found[0]["fullUrl"]
    return found[0]["resource"]["name"][0]["family"]


def confirm():
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {
                "name": "purpose",
                "valueCoding": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"},
            },
            {"name": "relationship", "valueBoolean": True},
        ],
    }
    answer = post(f"{state['patient']}/$confirm-treatment", body)
    state["base"] = answer["parameter"][0]["valueReference"]["reference"].split("/Patient/")[0]
    return "confirmed"


def documents():
    """ITI-67."""
    answer = session.get(f"{state['base']}/DocumentReference", params={"status": "current"}, timeout=60)
    answer.raise_for_status()
    lines = [entry["resource"] for entry in answer.json()["entry"] if entry["search"]["mode"] == "match"]
    attachments = [(line, line["content"][0]["attachment"]) for line in lines]
    state["reports"] = [a["url"] for _, a in attachments if a["contentType"] in ("text/xml", "application/pdf")]
    state["lines"] = lines
    assert state["reports"], lines
    return {"lines": len(lines), "reports": len(state["reports"])}


def report():
    """ITI-68."""
    answer = session.get(state["reports"][0], timeout=60)
    answer.raise_for_status()
    assert b"ClinicalDocument" in answer.content
    return {"bytes": len(answer.content)}


def strings(value):
    """Every string of a JSON value."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def images():
    """WADO-RS of each study, by dicomweb-client; the instances of the archive folder come with their pixels."""
    held, came, studies = archive(), set(), 0
    for line in state["lines"]:
        root = next((text for text in strings(line) if text.endswith("/dicomweb")), None)
        for study in studies_of(line) if root else []:
            studies += 1
            for dataset in DICOMwebClient(url=root, session=session).retrieve_study(study):
                assert isinstance(dataset, pydicom.Dataset) and dataset.StudyInstanceUID == study
                uid = str(dataset.SOPInstanceUID)
                if uid in held and "PixelData" in dataset:
                    assert hashlib.sha256(dataset.PixelData).hexdigest() == held[uid], uid
                came.add(uid)
    assert studies and len(came) > 20, (studies, len(came))
    return {"studies": studies, "instances": len(came)}


def viewer():
    """QIDO-RS, a series, an instance and metadata, by dicomweb-client."""
    held, seen = archive(), 0
    for line in state["lines"]:
        root = next((text for text in strings(line) if text.endswith("/dicomweb")), None)
        for study in studies_of(line) if root else []:
            client = DICOMwebClient(url=root, session=session)
            assert [pydicom.Dataset.from_json(s).StudyInstanceUID for s in client.search_for_studies()] == [study]
            for found in map(pydicom.Dataset.from_json, client.search_for_series(study, fields=["SeriesDescription"])):
                series = found.SeriesInstanceUID
                listed = [pydicom.Dataset.from_json(i) for i in client.search_for_instances(study, series)]
                assert len(listed) == found.NumberOfSeriesRelatedInstances
                told = {m.SOPInstanceUID: m for m in map(pydicom.Dataset.from_json, client.retrieve_series_metadata(study, series))}
                came = {d.SOPInstanceUID: d for d in client.retrieve_series(study, series)}
                assert set(told) == set(came) == {i.SOPInstanceUID for i in listed}, series
                one = listed[0].SOPInstanceUID
                dataset = client.retrieve_instance(study, series, one)
                assert client.retrieve_instance_metadata(study, series, one)["00080018"]["Value"] == [one]
                if "Rows" in dataset:
                    assert (told[one].Rows, told[one].Columns) == (dataset.Rows, dataset.Columns)
                    assert told[one].get("PixelSpacing") == dataset.get("PixelSpacing")
                if one in held and "PixelData" in dataset:
                    assert hashlib.sha256(dataset.PixelData).hexdigest() == held[one], one
                seen += len(told)
    assert seen > 20, seen
    return {"instances": seen}


def studies_of(line):
    """Study Instance UIDs among the identifiers that a DocumentReference relates to."""
    related = [r.get("identifier", {}).get("value", "") for r in line.get("context", {}).get("related", [])]
    return sorted({value.removeprefix("urn:oid:") for value in related if value.startswith("urn:oid:")})


def refused():
    stranger = requests.Session()
    stranger.trust_env, stranger.verify = False, session.verify
    answer = stranger.get(f"{state['base']}/DocumentReference", timeout=30)
    assert answer.status_code == 401, answer.status_code
    return answer.status_code


steps = Steps()
for name, step in [
    ("match", match),
    ("confirm-treatment", confirm),
    ("documents", documents),
    ("report", report),
    ("images", images),
    ("viewer", viewer),
    ("without token", refused),
]:
    steps.run(f"clinician {name}", step)
sys.exit(steps.failed > 0)
