#!/usr/bin/env python3
"""A neighbour's NCP-B in Python: assertions signed by signxml, XCA by zeep with the public WSDLs, towards Norway."""
import datetime
import hashlib
import pathlib
import sys
import uuid

import requests
import zeep
from lxml import etree
from signxml import XMLSigner, methods
from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureMethod
from zeep.transports import Transport

from common import DEMO, PATIENT_ID, PATIENT_ROOT, Steps

WSDL = pathlib.Path(__file__).parents[2] / "fixtures" / "wsdl" / "xds"
XCA = "https://localhost:27443/openncp-ws-server/services/XCA_Service"
HOME = "urn:oid:2.999.47"
CX = f"{PATIENT_ID}^^^&{PATIENT_ROOT}&ISO"
PKI = DEMO / "fi" / "pki"
SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
XSPA = "urn:oasis:names:tc:xspa:1.0:subject"
NOW = datetime.datetime.now(datetime.timezone.utc)


def instant(hours=0):
    return (NOW + datetime.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def text(name, value):
    return (
        f'<saml:Attribute Name="{name}" NameFormat="urn:oasis:names:tc:SAML:2.0:attrname-format:uri">'
        f'<saml:AttributeValue>{value}</saml:AttributeValue></saml:Attribute>'
    )


def coded(name, element, code, system, display):
    return (
        f'<saml:Attribute Name="{name}" NameFormat="urn:oasis:names:tc:SAML:2.0:attrname-format:uri"><saml:AttributeValue>'
        f'<{element} xmlns="urn:hl7-org:v3" xsi:type="CE" code="{code}" codeSystem="{system}" codeSystemName="x" '
        f'displayName="{display}"/></saml:AttributeValue></saml:Attribute>'
    )


def purpose():
    system = "3bc18518-d305-46c2-a8d6-94bd59856e9e"
    return coded(f"{XSPA}:purposeofuse", "PurposeOfUse", "TREATMENT", system, "TREATMENT")


def assertion(kind, issuer, hours, advice, context, attributes):
    """A signed assertion of the eHDSI profile. zeep drops prefixes that only values use, so there is none."""
    key = f"_{uuid.uuid4()}"
    xml = f"""<saml:Assertion xmlns:saml="{SAML}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 ID="{key}" IssueInstant="{instant()}" Version="2.0"><saml:Issuer NameQualifier="urn:ehdsi:assertions:{kind}">{issuer}</saml:Issuer><ds:Signature
 xmlns:ds="http://www.w3.org/2000/09/xmldsig#" Id="placeholder"/><saml:Subject><saml:NameID
 Format="urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified">hpr-1</saml:NameID><saml:SubjectConfirmation
 Method="urn:oasis:names:tc:SAML:2.0:cm:sender-vouches"/></saml:Subject><saml:Conditions NotBefore="{instant()}"
 NotOnOrAfter="{instant(hours)}"><saml:AudienceRestriction><saml:Audience>urn:ehdsi:assertions.audience:x-border</saml:Audience></saml:AudienceRestriction></saml:Conditions>{advice}<saml:AuthnStatement
 AuthnInstant="{instant()}"><saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:{context}</saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement><saml:AttributeStatement>{attributes}</saml:AttributeStatement></saml:Assertion>"""
    signer = XMLSigner(
        method=methods.enveloped,
        signature_algorithm=SignatureMethod.ECDSA_SHA256,
        digest_algorithm=DigestAlgorithm.SHA256,
        c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
    )
    leaf = (PKI / "seal.pem").read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    signed = signer.sign(
        etree.fromstring(xml), key=(PKI / "seal.key").read_bytes(), cert=leaf, reference_uri=key, id_attribute="ID"
    )
    return key, signed


def security():
    hpi, hcp = assertion(
        "hcp", "urn:idp:FI:countryB", 4, "", "SmartcardPKI",
        text("urn:ihe:iti:xca:2010:homeCommunityId", "urn:oid:2.999.246")
        + text(f"{XSPA}:subject-id", "Radiologist in Python")
        + coded("urn:oasis:names:tc:xacml:2.0:subject:role", "Role", "221", "2.16.840.1.113883.2.9.6.2.7", "Medical Doctors")
        + text(f"{XSPA}:organization", "University hospital")
        + text(f"{XSPA}:organization-id", "urn:oid:2.999.246.10")
        + text("urn:ehdsi:names:subject:healthcare-facility-type", "Hospital")
        + purpose()
        + text("urn:oasis:names:tc:xspa:1.0:environment:locality", "Radiology")
        + "".join(
            text(f"{XSPA}:hl7:permission", f"{XSPA}:hl7:permission:PRD-{number}")
            for number in ("003", "004", "005", "006", "010", "016")
        ),
    )
    _, trc = assertion(
        "trc", "urn:initgw:FI:countryB", 2,
        f"<saml:Advice><saml:AssertionIDRef>{hpi}</saml:AssertionIDRef></saml:Advice>", "PreviousSession",
        text(f"{XSPA}:subject-id", CX.replace("&", "&amp;")) + purpose(),
    )
    header = etree.Element(f"{{{WSSE}}}Security", nsmap={"wsse": WSSE})
    header.extend([hcp, trc])
    return header


def client(wsdl):
    session = requests.Session()
    session.trust_env = False  # else REQUESTS_CA_BUNDLE would replace the anchors of the demonstration
    session.cert = (str(PKI / "tls-client.pem"), str(PKI / "tls-client.key"))
    session.verify = str(DEMO / "no" / "pki" / "anchors.pem")
    made = zeep.Client(str(WSDL / wsdl), transport=Transport(session=session))
    service = next(iter(made.wsdl.services.values()))
    binding = next(iter(service.ports.values())).binding.name
    return made, made.create_service(str(binding), XCA)


state = {}
RIM = "{urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0}"


def query():
    """ITI-38 FindDocuments. zeep knows no substitution groups, so the entries are read with lxml."""
    made, service = client("iti38.wsdl")
    rim = made.type_factory("urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0")

    def slot(name, value):
        return rim.SlotType1(name=name, ValueList=rim.ValueListType(_value_1=[{"Value": value}]))

    with made.settings(raw_response=True):
        answer = service.RespondingGateway_CrossGatewayQuery(
            ResponseOption={"returnType": "LeafClass", "returnComposedObjects": True},
            AdhocQuery={
                "id": "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d",
                "home": HOME,
                "Slot": [
                    slot("$XDSDocumentEntryPatientId", f"'{CX}'"),
                    slot("$XDSDocumentEntryStatus", "('urn:oasis:names:tc:ebxml-regrep:StatusType:Approved')"),
                ],
            },
            _soapheaders=[security()],
        )
    assert answer.ok, answer.text
    response = etree.fromstring(answer.content).find(".//{*}AdhocQueryResponse")
    assert response.get("status").endswith(":Success"), etree.tostring(response)
    state["entries"] = [entry(found) for found in response.iter(f"{RIM}ExtrinsicObject")]
    assert state["entries"], "no entries"
    return {"entries": len(state["entries"])}


def entry(found):
    slots = {slot.get("name"): slot.findtext(f".//{RIM}Value") for slot in found.iter(f"{RIM}Slot")}
    uuid_of_unique_id = "urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab"
    ids = {i.get("identificationScheme"): i.get("value") for i in found.iter(f"{RIM}ExternalIdentifier")}
    return {"mime": found.get("mimeType"), "unique": ids[uuid_of_unique_id], "slots": slots}


def retrieve():
    """ITI-39 of the original report; hash and size as announced."""
    wanted = next(e for e in state["entries"] if e["mime"] == "text/xml" and e["slots"]["size"] != "0")
    _, service = client("iti39.wsdl")
    answer = service.RespondingGateway_CrossGatewayRetrieve(
        DocumentRequest=[{
            "HomeCommunityId": HOME,
            "RepositoryUniqueId": wanted["slots"]["repositoryUniqueId"],
            "DocumentUniqueId": wanted["unique"],
        }],
        _soapheaders=[security()],
    )
    response = getattr(answer, "root", answer)
    came = response.DocumentResponse[0].Document
    # zeep strips line ends at the border of a part, so the document's own last one is put back.
    fitting = [d for d in (came, came + b"\n", came + b"\r\n") if str(len(d)) == wanted["slots"]["size"]]
    assert fitting, f"{len(came)} bytes"
    document = fitting[0]
    assert hashlib.sha1(document).hexdigest() == wanted["slots"]["hash"], "hash differs"  # noqa: S324: XDS says SHA-1
    return {"bytes": len(document)}


steps = Steps()
for name, step in [("ITI-38", query), ("ITI-39", retrieve)]:
    steps.run(f"xca {name}", step)
sys.exit(steps.failed > 0)
