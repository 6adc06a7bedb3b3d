"""Three programs that know XML signatures and nothing of this project: xmlsec1, signxml, pybergshamra.

Each argument is a file; for each of them three lines: its name, the program, `taken` or `refused`, and why. A message is taken
when the signature of each assertion in its Security header is, with the certificate of its own KeyInfo: trust is not this
script's question, nor is what an assertion says. The first line names the programs with their versions.
"""

import base64
import concurrent.futures
import importlib.metadata
import subprocess
import sys
import tempfile
import textwrap

import pybergshamra
from lxml import etree
from signxml import DigestAlgorithm, SignatureConfiguration, SignatureMethod, XMLVerifier

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
DSIG = "http://www.w3.org/2000/09/xmldsig#"
WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
ASSERTIONS = f".//{{{WSSE}}}Security/{{{SAML}}}Assertion"
PROFILE = SignatureConfiguration(
    expect_references=1,
    signature_methods=frozenset({SignatureMethod.RSA_SHA256, SignatureMethod.ECDSA_SHA256}),
    digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
)
PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


def certificate(assertion):
    held = assertion.find(f"{{{DSIG}}}Signature/{{{DSIG}}}KeyInfo/{{{DSIG}}}X509Data/{{{DSIG}}}X509Certificate")
    if held is None:
        raise ValueError("no certificate")
    return "".join(held.xpath("string()").split())


def pem(text):
    body = "\n".join(textwrap.wrap(text, 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def found(name):
    assertions = etree.parse(name, PARSER).findall(ASSERTIONS)
    if not assertions:
        raise ValueError("no assertion")
    return assertions


def signxml(name):
    for assertion in found(name):
        signed = XMLVerifier().verify(
            assertion, x509_cert=pem(certificate(assertion)), id_attribute="ID", expect_config=PROFILE
        )
        if signed.signed_xml.tag != f"{{{SAML}}}Assertion" or signed.signed_xml.get("ID") != assertion.get("ID"):
            raise ValueError("another element is signed")


def xmlsec1(name):
    for number, assertion in enumerate(found(name), 1):
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as key:
            key.write(pem(certificate(assertion)))
            key.flush()
            here = f"(//*[local-name()='Security']/*[local-name()='Assertion'])[{number}]/*[local-name()='Signature']"
            call = ["xmlsec1", "--verify", "--id-attr:ID", f"{SAML}:Assertion", "--node-xpath", here]
            done = subprocess.run(
                [*call, "--pubkey-cert-pem", key.name, name], capture_output=True, text=True, timeout=60
            )
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise ValueError(said[0] if said else "fails")


def bergshamra(name):
    """Its secure mode with the key pinned; it verifies all signatures of a document at once."""
    assertions = found(name)
    with open(name, encoding="utf-8") as file:
        text = file.read()
    verdicts = []
    for held in {certificate(assertion) for assertion in assertions}:
        keys = pybergshamra.KeysManager()
        keys.add_key(pybergshamra.load_x509_cert_der(base64.b64decode(held)))
        results = pybergshamra.verify_all(pybergshamra.DsigContext.secure(keys), text)
        verdicts.append([(bool(result), result.reason) for result in results])
    for of_one in zip(*verdicts, strict=True):
        if not any(valid for valid, _ in of_one):
            raise ValueError(of_one[0][1])


JUDGES = [xmlsec1, signxml, bergshamra]


def judged(name):
    lines = []
    for judge in JUDGES:
        try:
            judge(name)
            lines.append(f"{name}\t{judge.__name__}\ttaken\t")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            lines.append(f"{name}\t{judge.__name__}\trefused\t{why}")
    return lines


def main():
    version = subprocess.run(["xmlsec1", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    others = [f"{name} {importlib.metadata.version(name)}" for name in ("signxml", "pybergshamra")]
    print("; ".join([version, *others]))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for lines in pool.map(judged, sys.argv[1:]):
            print("\n".join(lines))


main()
