//! Rows whose assertions are changed before they are signed, so that each signature is good: what their content may hold
//! beside what everybody writes, and headers that are meant for somebody else.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_ihe::actions;
use ncp_saml::{HcpClaims, SignedAssertion, Signer, TrcClaims, hcp_template, trc_template};
use ncp_soap::{Addressing, Envelope, ns};
use ncp_xml::{Element, Limits};

use super::shapes::{attribute, part};
use super::{Attacker, INTEGRITY, MALFORMED, Message, Row, SERVED};
use crate::neighbour::Neighbour;
use crate::pki::Error;

/// No identity assertion is for the receiver.
pub(super) const UNSEEN: &str = "ERROR_HPI_AUTHENTICATION_NOT_RECEIVED";
const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";

struct Rows<'a> {
    attacker: &'a Attacker,
    claims: HcpClaims,
    seal: Signer,
    out: Vec<Row>,
}

pub(super) async fn rows(attacker: &Attacker) -> Result<Vec<Row>, Error> {
    let seal = attacker.seal()?;
    let mut rows = Rows { attacker, claims: attacker.neighbour.claims(), seal, out: Vec::new() };
    rows.logins().await?;
    rows.confirmations().await?;
    rows.conditions().await?;
    rows.doubles().await?;
    rows.lengths().await?;
    rows.headers().await?;
    Ok(rows.out)
}

fn id() -> String {
    format!("_{}", uuid::Uuid::new_v4())
}

fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The text with one more of a part directly behind it.
fn doubled(xml: &str, from: &str, to: &str) -> String {
    let one = part(xml, from, to);
    xml.replacen(&one, &one.repeat(2), 1)
}

fn confirmed(xml: &str, by: &str) -> String {
    xml.replacen(&part(xml, "<saml:SubjectConfirmation ", "/>"), by, 1)
}

impl Rows<'_> {
    fn push(&mut self, id: &str, input: &str, expected: &'static str, rule: &'static str, messages: Vec<Message>) {
        self.out.push(Row { id: id.into(), input: input.into(), expected: vec![expected], rule, messages });
    }

    fn message(&self, assertions: &[SignedAssertion]) -> Message {
        let security: String = assertions.iter().map(|a| a.xml.as_str()).collect();
        self.attacker.changed(self.attacker.query(&security))
    }

    /// Both assertions, each changed as text and then signed; what a change leaves as it is, is what everybody writes.
    async fn signed(
        &self,
        hcp: impl FnOnce(&str) -> String,
        trc: impl FnOnce(&str) -> String,
    ) -> Result<[SignedAssertion; 2], Error> {
        let (hcp_id, trc_id, now) = (id(), id(), Timestamp::now());
        let life = Duration::from_secs(3600);
        let facts = TrcClaims {
            country: self.claims.country,
            name_id: self.claims.name_id.clone(),
            hcp_id: hcp_id.clone(),
            patient: self.attacker.patient.to_cx(),
            purpose: self.claims.purpose,
        };
        let until = now + SignedDuration::from_hours(1);
        let hcp = hcp(&hcp_template(&hcp_id, &self.claims, now, life).to_xml());
        let trc = trc(&trc_template(&trc_id, &facts, now, until).to_xml());
        let read = |text: &str| Element::parse(text.as_bytes(), &Limits::REQUEST);
        Ok([self.seal.sign(&hcp_id, read(&hcp)?).await?, self.seal.sign(&trc_id, read(&trc)?).await?])
    }

    async fn hcp(
        &mut self,
        id: &str,
        input: &str,
        expected: &'static str,
        rule: &'static str,
        change: impl FnOnce(&str) -> String,
    ) -> Result<(), Error> {
        let assertions = self.signed(change, str::to_owned).await?;
        let message = self.message(&assertions);
        self.push(id, input, expected, rule, vec![message]);
        Ok(())
    }

    async fn trc(
        &mut self,
        id: &str,
        input: &str,
        expected: &'static str,
        rule: &'static str,
        change: impl FnOnce(&str) -> String,
    ) -> Result<(), Error> {
        let assertions = self.signed(str::to_owned, change).await?;
        let message = self.message(&assertions);
        self.push(id, input, expected, rule, vec![message]);
        Ok(())
    }

    async fn logins(&mut self) -> Result<(), Error> {
        let class = |xml: &str| {
            let strong = part(xml, "<saml:AuthnContextClassRef>", "</saml:AuthnContextClassRef>");
            let weak = strong.replace("SmartcardPKI", "Password");
            xml.replacen(&strong, &format!("{strong}{weak}"), 1)
        };
        let twice = "AuthnContextClassRef stands too often";
        self.hcp("T-SAM-2", "a second, weak class of login", INTEGRITY, twice, class).await?;
        let ago = instant(Timestamp::now() - SignedDuration::from_hours(1));
        for (id, input, value, rule) in [
            ("T-SAM-5", "session ended an hour ago", ago.as_str(), "session ended"),
            ("T-SAM-5b", "end of the session that is no time", "tomorrow", "instant"),
            ("T-SAM-5c", "end of the session with a time zone by name", "2099-01-01T00:00:00Z[Europe/Oslo]", "instant"),
        ] {
            let session = |xml: &str| {
                let end = format!("<saml:AuthnStatement SessionNotOnOrAfter=\"{value}\" ");
                xml.replacen("<saml:AuthnStatement ", &end, 1)
            };
            self.hcp(id, input, INTEGRITY, rule, session).await?;
        }
        let declared = |xml: &str| {
            let end = "</saml:AuthnContextClassRef>";
            xml.replacen(end, &format!("{end}<saml:AuthnContextDeclRef>urn:weak</saml:AuthnContextDeclRef>"), 1)
        };
        self.hcp("T-SAM-2b", "a declaration beside the class of login", INTEGRITY, "form: AuthnContext", declared)
            .await?;
        let lower = |xml: &str| {
            let (from, to) = part(xml, "<saml:Issuer ", "</saml:Issuer>").rsplit_once(":countryB").map_or_else(
                || (String::new(), String::new()),
                |(head, _)| {
                    let country = head.rsplit(':').next().unwrap_or_default().to_owned();
                    (format!(":{country}:countryB"), format!(":{}:countryB", country.to_ascii_lowercase()))
                },
            );
            xml.replacen(&from, &to, 1)
        };
        self.hcp("T-SAM-50", "country of the Issuer in lower case (ON-14)", SERVED, "", lower).await
    }

    async fn confirmations(&mut self) -> Result<(), Error> {
        let ago = instant(Timestamp::now() - SignedDuration::from_hours(1));
        let by = |method: &str, inner: &str| {
            format!("<saml:SubjectConfirmation Method=\"{method}\">{inner}</saml:SubjectConfirmation>")
        };
        let data = |attributes: &str| format!("<saml:SubjectConfirmationData {attributes}/>");
        let holder = "urn:oasis:names:tc:SAML:2.0:cm:holder-of-key";
        let vouched = by("urn:oasis:names:tc:SAML:2.0:cm:sender-vouches", "");
        let elsewhere = by(BEARER, &data("Recipient=\"https://elsewhere\""));
        let unknown = "subject confirmation";
        for (id, input, expected, rule, written) in [
            (
                "T-SAM-9",
                "bearer until an hour ago",
                INTEGRITY,
                "confirmation is over",
                by(BEARER, &data(&format!("NotOnOrAfter=\"{ago}\""))),
            ),
            (
                "T-SAM-9b",
                "bearer until a time that is none",
                INTEGRITY,
                "instant",
                by(BEARER, &data("NotOnOrAfter=\"soon\"")),
            ),
            ("T-SAM-9c", "bearer from an address", INTEGRITY, unknown, by(BEARER, &data("Address=\"10.0.0.1\""))),
            ("T-SAM-9d", "bearer in answer to a request", INTEGRITY, unknown, by(BEARER, &data("InResponseTo=\"_r\""))),
            ("T-SAM-11", "holder of a key that is not named", INTEGRITY, unknown, by(holder, "")),
            ("T-SAM-12", "a method that nobody knows", INTEGRITY, unknown, by("urn:x", "")),
            (
                "T-SAM-12b",
                "vouched for by somebody else",
                INTEGRITY,
                unknown,
                vouched.replace("></saml", "><saml:NameID Format=\"urn:x\">urn:other</saml:NameID></saml"),
            ),
            ("T-SAM-13", "a second confirmation, for somebody else", SERVED, "", format!("{vouched}{elsewhere}")),
            ("T-SAM-13b", "the one for somebody else first", SERVED, "", format!("{elsewhere}{vouched}")),
            ("T-SAM-13c", "two, both for somebody else", INTEGRITY, "audience", elsewhere.repeat(2)),
        ] {
            self.hcp(id, input, expected, rule, |xml| confirmed(xml, &written)).await?;
        }
        Ok(())
    }

    async fn conditions(&mut self) -> Result<(), Error> {
        let last = "</saml:Conditions>";
        let with = |inner: &'static str| move |xml: &str| xml.replacen(last, &format!("{inner}{last}"), 1);
        let once = with("<saml:OneTimeUse/>");
        for (id, input, assertions) in [
            ("T-SAM-15", "HCP for one use, used twice", self.signed(once, str::to_owned).await?),
            ("T-SAM-15b", "TRC for one use, used twice", self.signed(str::to_owned, once).await?),
        ] {
            let messages = vec![self.message(&assertions), self.message(&assertions)];
            self.push(id, input, INTEGRITY, "", messages);
            let first = self.signed(once, once).await?;
            let message = self.message(&first);
            self.push(&format!("{id} first"), "both for one use, used once", SERVED, "", vec![message]);
        }
        let condition = "<saml:Condition xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
                         xmlns:e=\"urn:e\" xsi:type=\"e:Never\"/>";
        self.hcp("T-SAM-16", "a condition that nobody knows", INTEGRITY, "form: Conditions", with(condition)).await?;
        let proxy = with("<saml:ProxyRestriction Count=\"0\"/>");
        self.hcp("T-SAM-16b", "a restriction on who builds on it", INTEGRITY, "form: Conditions", proxy).await?;
        let expired = |xml: &str| {
            let one = part(xml, "<saml:Conditions ", last);
            let old = one.replacen(&attribute(&one, "NotOnOrAfter"), "2001-01-01T00:00:00Z", 1);
            xml.replacen(&one, &format!("{one}{old}"), 1)
        };
        let twice = "Conditions stands too often";
        self.hcp("T-SAM-20", "second Conditions, expired", INTEGRITY, twice, expired).await
    }

    async fn doubles(&mut self) -> Result<(), Error> {
        for (id, element, rule) in [
            ("T-SAM-21", "Subject", "Subject stands too often"),
            ("T-SAM-24", "AttributeStatement", "AttributeStatement stands too often"),
            ("T-SAM-24b", "NameID", "NameID stands too often"),
        ] {
            let (from, to) = (format!("<saml:{element}"), format!("</saml:{element}>"));
            let input = format!("second {element}");
            self.hcp(id, &input, INTEGRITY, rule, |xml| doubled(xml, &from, &to)).await?;
        }
        let issuer = |xml: &str| {
            let one = part(xml, "<saml:Issuer ", "</saml:Issuer>");
            xml.replacen("<saml:Subject>", &format!("{one}<saml:Subject>"), 1)
        };
        self.hcp("T-SAM-23", "second Issuer", INTEGRITY, "Issuer stands too often", issuer).await?;
        let roles = |xml: &str| {
            let one = part(xml, "<Role ", "/>");
            xml.replacen(&one, &format!("{one}{}", one.replace("\"221\"", "\"2262\"")), 1)
        };
        self.hcp("T-SAM-26", "two roles in one value", INTEGRITY, "Role stands too often", roles).await?;
        let reference = |xml: &str| {
            let one = part(xml, "<saml:AssertionIDRef>", "</saml:AssertionIDRef>");
            xml.replacen(&one, &format!("{one}<saml:AssertionIDRef>_other</saml:AssertionIDRef>"), 1)
        };
        self.trc("T-SAM-31", "TRC with a second reference", "1002", "trc binding", reference).await?;
        let statement = "</saml:AttributeStatement>";
        let resource = |xml: &str| {
            let value = "4711^^^&amp;2.999.1&amp;ISO";
            let more = format!(
                "<saml:Attribute Name=\"urn:oasis:names:tc:xacml:2.0:resource:resource-id\"><saml:AttributeValue>{value}\
                 </saml:AttributeValue></saml:Attribute>{statement}"
            );
            xml.replacen(statement, &more, 1)
        };
        self.hcp("T-SAM-32", "HCP that names another patient than the TRC", "4206", "", resource).await?;
        self.trc("T-SAM-32b", "TRC that names a second patient", INTEGRITY, "form: AttributeStatement", resource)
            .await?;
        let unknown = |xml: &str| xml.replacen("<saml:Subject>", "<saml:Subject a=\"b\">", 1);
        self.hcp("T-SAM-33", "an attribute that nobody knows", INTEGRITY, "form: Subject", unknown).await
    }

    async fn lengths(&mut self) -> Result<(), Error> {
        let named = |length: usize| {
            let name = "x".repeat(length);
            move |xml: &str| xml.replacen("Radiologist on duty", &name, 1)
        };
        let (fits, long) = (named(4096), named(1 << 20));
        self.hcp("T-SAM-40", "a name of 4 KiB", SERVED, "", fits).await?;
        self.hcp("T-SAM-40b", "a name of 1 MiB", INTEGRITY, "too long", long).await?;
        let statement = "</saml:AttributeStatement>";
        let attributes = |number: usize, length: usize| {
            let value = "x".repeat(length);
            let one = |i: usize| {
                format!(
                    "<saml:Attribute Name=\"urn:x:{i}\"><saml:AttributeValue>{value}</saml:AttributeValue></saml:Attribute>"
                )
            };
            let more: String = (0..number).map(one).collect();
            move |xml: &str| xml.replacen(statement, &format!("{more}{statement}"), 1)
        };
        let input = "three attributes of 3 MiB";
        self.hcp("T-SAM-40c", input, INTEGRITY, "too long", attributes(3, 3 << 20)).await?;
        let input = "a hundred attributes of 1 KiB";
        self.hcp("T-SAM-40d", input, INTEGRITY, "too long: assertion", attributes(100, 1024)).await
    }

    /// Header blocks that are for somebody else, or say of themselves what nobody reads (SE-23).
    async fn headers(&mut self) -> Result<(), Error> {
        let other = "urn:other";
        let role = |role: &str| format!("http://www.w3.org/2003/05/soap-envelope/role/{role}");
        for (id, input, attribute, expected, rule) in [
            ("T-SOA-1", "Security for another role", (ns::SOAP, "role", other.to_owned()), UNSEEN, "no hcp"),
            ("T-SOA-1b", "Security for nobody", (ns::SOAP, "role", role("none")), UNSEEN, "no hcp"),
            ("T-SOA-1c", "Security for another actor", (ns::SOAP11, "actor", other.to_owned()), UNSEEN, "no hcp"),
            ("T-SOA-1d", "Security for another role, unqualified", ("", "role", other.to_owned()), UNSEEN, "no hcp"),
            ("T-SOA-1e", "Security for the next node", (ns::SOAP, "role", role("next")), SERVED, ""),
            ("T-SOA-1f", "Security for the last node", (ns::SOAP, "role", role("ultimateReceiver")), SERVED, ""),
            (
                "T-SOA-2",
                "Security that need perhaps be understood",
                (ns::SOAP, "mustUnderstand", "maybe".into()),
                MALFORMED,
                "",
            ),
            (
                "T-SOA-2b",
                "Security in a coding of its own",
                (ns::SOAP, "encodingStyle", other.to_owned()),
                MALFORMED,
                "",
            ),
            (
                "T-SOA-3",
                "Security as a reference parameter",
                (ns::WSA, "IsReferenceParameter", "true".into()),
                MALFORMED,
                "",
            ),
        ] {
            let assertions = self.signed(str::to_owned, str::to_owned).await?;
            let (of, name, value) = attribute;
            let security = Element::new(ns::WSSE, "Security").attr_in(of, name, value);
            let security = assertions.iter().fold(security, |s, a| s.raw(a.xml.as_str()));
            let bytes = self.attacker.envelope(&security.to_xml());
            self.push(id, input, expected, rule, vec![self.attacker.changed(bytes)]);
        }
        let (past, future) = ("2001-01-01T00:00:00Z", "2099-01-01T00:00:00Z");
        for (id, input, created, expires, expected, rule) in [
            ("T-SOA-4", "message that was over", past, past, INTEGRITY, "message is over"),
            ("T-SOA-4b", "message of the future", future, future, INTEGRITY, "message is over or not yet"),
            ("T-SOA-4c", "message until a time that is none", past, "never", INTEGRITY, "instant"),
            ("T-SOA-4d", "message within its time", past, future, SERVED, ""),
        ] {
            let time = |local: &str, text: &str| Element::new(ns::WSU, local).text(text);
            let stamp =
                Element::new(ns::WSU, "Timestamp").with(time("Created", created)).with(time("Expires", expires));
            let assertions = self.signed(str::to_owned, str::to_owned).await?;
            let inner: String = assertions.iter().map(|a| a.xml.as_str()).collect();
            let bytes = self.attacker.query(&format!("{}{inner}", stamp.to_xml()));
            self.push(id, input, expected, rule, vec![self.attacker.changed(bytes)]);
        }
        let login = Element::new(ns::WSSE, "UsernameToken").to_xml();
        let assertions = self.signed(str::to_owned, str::to_owned).await?;
        let inner: String = assertions.iter().map(|a| a.xml.as_str()).collect();
        let bytes = self.attacker.query(&format!("{login}{inner}"));
        let message = self.attacker.changed(bytes);
        self.push("T-SOA-5", "another token beside the assertions", INTEGRITY, "security.child", vec![message]);

        // WS-Addressing: an action for another node is none, and what would have to go back with the answer is refused.
        let parameters = Element::new(ns::WSA, "ReferenceParameters").with(Element::new("urn:x", "x"));
        let relates = Element::new(ns::WSA, "RelatesTo").attr("RelationshipType", "urn:other").text("urn:uuid:1");
        for (id, input, name, change) in [
            ("T-SOA-6", "Action for another role", "Action", Change::Attribute(ns::SOAP, "role", other)),
            (
                "T-SOA-6b",
                "MessageID as a reference parameter",
                "MessageID",
                Change::Attribute(ns::WSA, "IsReferenceParameter", "true"),
            ),
            ("T-SOA-7", "ReplyTo with reference parameters", "ReplyTo", Change::Child(parameters)),
            ("T-SOA-8", "relation that is no reply", "", Change::Block(relates)),
        ] {
            let assertions = self.signed(str::to_owned, str::to_owned).await?;
            let headers = Addressing::request(self.attacker.side.asks(actions::ITI38_REQUEST).0, "https://localhost/")
                .to_headers();
            let mut headers: Vec<Element> =
                headers.into_iter().map(|h| if h.local() == name { change.of(h) } else { h }).collect();
            headers.extend(change.block());
            headers.push(assertions.iter().fold(Element::new(ns::WSSE, "Security"), |s, a| s.raw(a.xml.as_str())));
            let body = Neighbour::find_documents(&self.attacker.patient).to_element();
            let bytes = Envelope { headers, body }.write();
            self.push(id, input, MALFORMED, "", vec![self.attacker.changed(bytes)]);
        }
        Ok(())
    }
}

/// What is done to a header block.
enum Change {
    Attribute(&'static str, &'static str, &'static str),
    Child(Element),
    Block(Element),
}

impl Change {
    fn of(&self, block: Element) -> Element {
        match self {
            Self::Attribute(of, name, value) => block.attr_in(of, name, *value),
            Self::Child(child) => block.with(child.clone()),
            Self::Block(_) => block,
        }
    }

    fn block(&self) -> Option<Element> {
        if let Self::Block(block) = self { Some(block.clone()) } else { None }
    }
}
