#!/usr/bin/env python3
"""An auditor's tool in Norway: ITI-81 by two generic FHIR clients; each resource is read by two sets of R4 models."""
import datetime
import sys
import time

import requests
from fhir.resources.R4B import get_fhir_model_class
from fhirclient.client import FHIRClient
from fhirclient.models.auditevent import AuditEvent
from fhirclient.models.bundle import Bundle
from fhirclient.server import FHIRNotFoundException
from fhirpy import SyncFHIRClient
from fhirpy.base.exceptions import ForbiddenError, OperationOutcome

from common import DEMO, PATIENT_ID, PATIENT_ROOT, Steps

BASE = "https://localhost:27453"
PKI = DEMO / "no" / "pki"
ANCHORS = str(PKI / "internal-anchors.pem")
PATIENT = f"urn:oid:{PATIENT_ROOT}|{PATIENT_ID}"


def certificate(name):
    return str(PKI / f"{name}.pem"), str(PKI / f"{name}.key")


# Searches are records too: what is compared ended before the first of them.
time.sleep(2)
NOW = datetime.datetime.now(datetime.timezone.utc)
WINDOW = [
    f"ge{(NOW - datetime.timedelta(hours=1)).isoformat(timespec='milliseconds')}",
    f"lt{(NOW - datetime.timedelta(seconds=1)).isoformat(timespec='milliseconds')}",
]
READER = {"cert": certificate("reader"), "verify": ANCHORS}
REASON = {"X-Audit-Reason": "the clients of other authors"}
auditor = SyncFHIRClient(BASE, extra_headers=REASON, requests_config=READER)
other = FHIRClient(settings={"app_id": "auditor", "api_base": BASE})
other.server.session.trust_env = False
other.server.session.cert, other.server.session.verify = certificate("reader"), ANCHORS
other.server.session.headers.update(REASON)
state = {}


def valid(resource):
    """A resource as plain JSON, if models of its type take it whole."""
    plain = resource.serialize() if hasattr(resource, "serialize") else dict(resource)
    get_fhir_model_class(plain["resourceType"]).model_validate(plain)
    if plain["resourceType"] == "AuditEvent":
        AuditEvent(plain, strict=True)
    return plain


def found(**parameters):
    """Every AuditEvent of the window, over all pages, newest first."""
    searched = auditor.resources("AuditEvent").search(**{"date": WINDOW, "_count": 100, **parameters})
    events = [valid(event) for event in searched]
    times = [event["recorded"] for event in events]
    assert times == sorted(times, reverse=True), "not newest first"
    ids = [event["id"] for event in events]
    assert len(ids) == len(set(ids)), "an event came twice"
    return events


def ids(events):
    return {event["id"] for event in events}


def identifiers(event):
    """System and value of each entity."""
    whats = [entity.get("what", {}).get("identifier", {}) for entity in event.get("entity", [])]
    return {(what.get("system", ""), what.get("value", "")) for what in whats}


def capabilities():
    statement = valid(other.server.capabilityStatement.as_json() | {"resourceType": "CapabilityStatement"})
    resource = statement["rest"][0]["resource"][0]
    names = {parameter["name"] for parameter in resource["searchParam"]}
    assert {"date", "patient", "entity", "outcome"} <= names, names
    return {"parameters": len(names)}


def by_date():
    state["all"] = found()
    assert len(state["all"]) > 6, len(state["all"])
    return {"events": len(state["all"])}


def by_patient():
    """Chained, with FHIR's modifier and as a bare reference parameter: the same; another patient has none."""
    expected = {event["id"] for event in state["all"] if tuple(PATIENT.split("|")) in identifiers(event)}
    assert expected
    for name in ("patient.identifier", "patient:identifier", "patient"):
        assert ids(found(**{name: PATIENT})) == expected, name
    assert found(**{"patient.identifier": f"urn:oid:{PATIENT_ROOT}|1"}) == []
    return {"events": len(expected)}


def by_form():
    """The same by POST, so that the patient stands in no URL."""
    form = {"date": WINDOW, "patient.identifier": PATIENT, "_count": 100}
    answer = requests.post(f"{BASE}/AuditEvent/_search", data=form, headers=REASON, timeout=30, **READER)
    answer.raise_for_status()
    bundle = answer.json()
    get_fhir_model_class("Bundle").model_validate(bundle)
    Bundle(bundle, strict=True)
    events = [entry["resource"] for entry in bundle["entry"]]
    assert ids(events) == ids(found(**{"patient.identifier": PATIENT}))
    return {"events": len(events)}


def by_entity():
    patient = tuple(PATIENT.split("|"))
    named = {i for event in state["all"] for i in identifiers(event) if i != patient and i[1] and "," not in i[1]}
    plain = sorted(value for system, value in named if not system)[:5]
    assert plain
    for value in plain:
        expected = {event["id"] for event in state["all"] if ("", value) in identifiers(event)}
        assert ids(found(entity=value)) == ids(found(**{"entity.identifier": value})) == expected, value
    return {"entities": len(plain)}


def by_outcome():
    counts = {}
    for outcome in ("0", "4", "8", "12"):
        events = found(outcome=outcome)
        assert all(event["outcome"] == outcome for event in events)
        counts[outcome] = len(events)
    assert counts["0"] and sum(counts.values()) == len(state["all"]), counts
    assert len(found(outcome="4,8,12")) == len(state["all"]) - counts["0"]
    return counts


def pages():
    """Three a page by the links, with each client."""
    by_links = found(_count=3)
    assert [event["id"] for event in by_links] == [event["id"] for event in state["all"]], len(by_links)
    search = AuditEvent.where({"date": {"$and": WINDOW}, "_count": "3"})
    bundles = list(search.perform_iter(other.server))
    assert all(len(bundle.entry) <= 3 for bundle in bundles)
    came = [entry.resource.id for bundle in bundles for entry in bundle.entry]
    assert came == [event["id"] for event in state["all"]], len(came)
    return {"pages": len(bundles), "events": len(came)}


def read():
    event = state["all"][0]
    assert AuditEvent.read(event["id"], other.server).as_json() == event
    assert valid(auditor.get("AuditEvent", event["id"])) == event
    try:
        AuditEvent.read("999-999", other.server)
    except FHIRNotFoundException as error:
        assert error.response.json()["issue"][0]["code"] == "not-found"
        return event["id"]
    raise AssertionError("an event that nobody stored")


def refused():
    """What cannot be answered is refused by an OperationOutcome."""
    codes = []
    silent = SyncFHIRClient(BASE, requests_config=READER)
    for client, parameters in (
        (auditor, {"outcome": "8"}),
        (auditor, {"date": "ge2026", "colour": "red"}),
        (auditor, {"date": "yesterday"}),
        (silent, {"date": "ge2026"}),
    ):
        try:
            client.resources("AuditEvent").search(**parameters).fetch()
            raise AssertionError(f"{parameters} were answered")
        except OperationOutcome as error:
            codes.append(valid(error.resource)["issue"][0]["code"])
    assert codes == ["required", "not-supported", "value", "required"], codes
    return codes


def stranger():
    """A certificate of the country that is no reader's."""
    client = SyncFHIRClient(BASE, requests_config={"cert": certificate("internal-client"), "verify": ANCHORS})
    try:
        client.resources("AuditEvent").search(date="ge2026").fetch()
    except ForbiddenError:
        return "forbidden"
    raise AssertionError("answered")


steps = Steps()
for name, step in [
    ("capabilities", capabilities),
    ("by date", by_date),
    ("by patient", by_patient),
    ("by form", by_form),
    ("by entity", by_entity),
    ("by outcome", by_outcome),
    ("pages", pages),
    ("read", read),
    ("refused", refused),
    ("without the right", stranger),
]:
    steps.run(f"audit {name}", step)
sys.exit(steps.failed > 0)
