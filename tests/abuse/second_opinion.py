"""Says of each message whether signxml takes the signatures of all assertions in its Security header.

Each argument is a file; a line a file: its name, `taken` or `refused`, and why. The certificate is the one of KeyInfo: trust
is not this script's question. What signxml hands back as signed must be the assertion that was asked about.
"""

import sys
import textwrap

from lxml import etree
from signxml import DigestAlgorithm, SignatureConfiguration, SignatureMethod, XMLVerifier

SAML = "{urn:oasis:names:tc:SAML:2.0:assertion}"
DSIG = "{http://www.w3.org/2000/09/xmldsig#}"
WSSE = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}"
PROFILE = SignatureConfiguration(
    expect_references=1,
    signature_methods=frozenset({SignatureMethod.RSA_SHA256, SignatureMethod.ECDSA_SHA256}),
    digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
)
PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


def check(assertion):
    held = assertion.find(f"{DSIG}Signature/{DSIG}KeyInfo/{DSIG}X509Data/{DSIG}X509Certificate")
    text = "".join(held.xpath("string()").split())
    body = "\n".join(textwrap.wrap(text, 64))
    pem = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
    found = XMLVerifier().verify(assertion, x509_cert=pem, id_attribute="ID", expect_config=PROFILE)
    if found.signed_xml.tag != f"{SAML}Assertion" or found.signed_xml.get("ID") != assertion.get("ID"):
        raise ValueError("another element is signed")


for name in sys.argv[1:]:
    try:
        assertions = etree.parse(name, PARSER).findall(f".//{WSSE}Security/{SAML}Assertion")
        if not assertions:
            raise ValueError("no assertion")
        for assertion in assertions:
            check(assertion)
        print(f"{name} taken {len(assertions)}")
    except Exception as error:
        print(f"{name} refused {type(error).__name__}: {' '.join(str(error).split())[:120]}")
