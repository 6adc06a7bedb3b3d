//! Rows whose assertions are signed as they stand: keys, times, audiences, bindings, roles, countries.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_ihe::{PatientId, actions};
use ncp_saml::{
    Code, HcpClaims, NextOfKin, NextOfKinClaims, Purpose, SealKey, SignedAssertion, Signer, TrcClaims, hcp_template,
    trc_template,
};
use ncp_tls::Country;
use ncp_xml::{Element, Limits};
use openssl::bn::BigNum;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;

use super::{Attacker, INTEGRITY, Message, Row, SERVED};
use crate::neighbour::Neighbour;
use crate::pki::{Algorithm, CountryPki, Error, Odd, Use};

const UNTRUSTED: &str = "not trusted";
const HOUR: i64 = 3600;

struct Rows<'a> {
    attacker: &'a Attacker,
    claims: HcpClaims,
    seal: Signer,
    out: Vec<Row>,
}

pub(super) async fn rows(attacker: &Attacker) -> Result<Vec<Row>, Error> {
    let mut rows = Rows { attacker, claims: attacker.neighbour.claims(), seal: attacker.seal()?, out: Vec::new() };
    rows.keys().await?;
    rows.times().await?;
    rows.bindings().await?;
    rows.roles().await?;
    rows.replays().await?;
    Ok(rows.out)
}

/// Signs with a key of the folder.
pub(super) fn signer(pki: &CountryPki, name: &str) -> Result<Signer, Error> {
    let seal = SealKey::load(&pki.path(&format!("{name}.pem")), &pki.path(&format!("{name}.key")))?;
    Ok(Signer::start(seal, 1)?)
}

fn id() -> String {
    format!("_{}", uuid::Uuid::new_v4())
}

/// DER of a subject: each RDN a list of (OID as DER content, text).
fn subject(rdns: &[&[(&[u8], &str)]]) -> Vec<u8> {
    let tlv = |tag: u8, content: Vec<u8>| [vec![tag, u8::try_from(content.len()).unwrap_or(0)], content].concat();
    let value = |(oid, text): &(&[u8], &str)| {
        let text = tlv(if oid == &C { 0x13 } else { 0x0c }, text.as_bytes().to_vec());
        tlv(0x30, [tlv(6, oid.to_vec()), text].concat())
    };
    tlv(0x30, rdns.iter().flat_map(|rdn| tlv(0x31, rdn.iter().flat_map(value).collect())).collect())
}

const C: [u8; 3] = [0x55, 4, 6];
const CN: [u8; 3] = [0x55, 4, 3];

impl Rows<'_> {
    fn push(&mut self, id: &str, input: &str, expected: &[&'static str], rule: &'static str, messages: Vec<Message>) {
        self.out.push(Row { id: id.into(), input: input.into(), expected: expected.to_vec(), rule, messages });
    }

    fn query(&self, assertions: &[SignedAssertion]) -> Message {
        let body = Neighbour::find_documents(&self.attacker.patient).to_element();
        self.attacker.signed_message(actions::ITI38_REQUEST, assertions, body)
    }

    async fn trc(&self, hcp: &SignedAssertion) -> Result<SignedAssertion, Error> {
        self.attacker.neighbour.trc(hcp, &self.claims, &self.attacker.patient).await
    }

    fn trc_claims(&self, hcp: &SignedAssertion) -> TrcClaims {
        TrcClaims {
            country: self.claims.country,
            name_id: self.claims.name_id.clone(),
            hcp_id: hcp.id.clone(),
            patient: self.attacker.patient.to_cx(),
            purpose: self.claims.purpose,
        }
    }

    /// A query with an HCP assertion of these claims and its TRC.
    async fn claimed(
        &mut self,
        id: &str,
        input: &str,
        expected: &[&'static str],
        rule: &'static str,
        change: impl FnOnce(&mut HcpClaims),
    ) -> Result<(), Error> {
        let mut claims = self.claims.clone();
        change(&mut claims);
        let hcp = self.attacker.neighbour.hcp(&claims, Timestamp::now()).await?;
        let trc = self.attacker.neighbour.trc(&hcp, &claims, &self.attacker.patient).await?;
        let message = self.query(&[hcp, trc]);
        self.push(id, input, expected, rule, vec![message]);
        Ok(())
    }

    /// A query whose HCP assertion is signed by another key.
    async fn sealed(&mut self, id: &str, input: &str, pki: &CountryPki, name: &str) -> Result<(), Error> {
        let signer = signer(pki, name)?;
        let hcp =
            signer.issue_hcp(&self::id(), &self.claims, Timestamp::now(), Duration::from_secs(HOUR as u64)).await?;
        let trc = self.trc(&hcp).await?;
        let message = self.query(&[hcp, trc]);
        self.push(id, input, &[INTEGRITY], UNTRUSTED, vec![message]);
        Ok(())
    }

    /// A query whose HCP template was changed before it was signed.
    async fn edited(
        &mut self,
        id: &str,
        input: &str,
        expected: &[&'static str],
        rule: &'static str,
        edit: impl FnOnce(String) -> String,
    ) -> Result<(), Error> {
        let hcp_id = self::id();
        let template = hcp_template(&hcp_id, &self.claims, Timestamp::now(), Duration::from_secs(HOUR as u64)).to_xml();
        let changed = edit(template.clone());
        if changed == template {
            return Err(format!("{id}: nothing was changed").into());
        }
        let hcp = self.seal.sign(&hcp_id, Element::parse(changed.as_bytes(), &Limits::REQUEST)?).await?;
        let trc = self.trc(&hcp).await?;
        let message = self.query(&[hcp, trc]);
        self.push(id, input, expected, rule, vec![message]);
        Ok(())
    }

    async fn keys(&mut self) -> Result<(), Error> {
        let pki = &self.attacker.pki;
        let country = pki.country.as_str();
        let other = if country == "SE" { "DK" } else { "SE" };
        let p256 = Algorithm::P256;
        let same = subject_of(pki, self.attacker.side.certificates().1)?;
        let cases: Vec<(&str, &str, Use, Algorithm, Odd)> = vec![
            (
                "T-KEY-1",
                "self-signed certificate with the peer's subject",
                Use::Seal,
                p256,
                Odd { subject: Some(same), self_signed: true, ..Odd::default() },
            ),
            ("T-KEY-2", "expired signer", Use::Seal, p256, Odd { from_days: -30, to_days: 0, ..Odd::default() }),
            ("T-KEY-3", "signer not yet valid", Use::Seal, p256, Odd { from_days: 5, ..Odd::default() }),
            (
                "T-KEY-6",
                "signer without digitalSignature",
                Use::Seal,
                p256,
                Odd { no_digital_signature: true, ..Odd::default() },
            ),
            ("T-KEY-6b", "CA certificate as signer", Use::Seal, p256, Odd { ca: true, ..Odd::default() }),
            ("T-KEY-6c", "signer with the extended use of TLS", Use::Client, p256, Odd::default()),
            (
                "T-KEY-9",
                "C= inside the CN, none as RDN",
                Use::Seal,
                p256,
                Odd { subject: Some(subject(&[&[(&CN, &format!("seal, C={country}"))]])), ..Odd::default() },
            ),
            (
                "T-KEY-10",
                "two C RDNs",
                Use::Seal,
                p256,
                Odd { subject: Some(subject(&[&[(&C, country)], &[(&C, other)], &[(&CN, "seal")]])), ..Odd::default() },
            ),
            (
                "T-KEY-11",
                "lower-case country",
                Use::Seal,
                p256,
                Odd { subject: Some(subject(&[&[(&C, &country.to_lowercase())], &[(&CN, "seal")]])), ..Odd::default() },
            ),
            (
                "T-KEY-12",
                "country and name in one RDN",
                Use::Seal,
                p256,
                Odd { subject: Some(subject(&[&[(&C, country), (&CN, "seal")]])), ..Odd::default() },
            ),
            ("T-ALG-5", "RSA of 1024 bits", Use::Seal, Algorithm::Rsa1024, Odd::default()),
            ("T-ALG-6", "ECDSA on P-192", Use::Seal, Algorithm::P192, Odd::default()),
        ];
        for (id, input, usage, algorithm, odd) in cases {
            // A right certificate of the same key signs; KeyInfo is outside the signature and gets the odd one.
            let (plain, name) = (format!("attack-{id}-plain"), format!("attack-{id}"));
            pki.leaf(&plain, Use::Seal, algorithm, 0, 90)?;
            let key = PKey::private_key_from_pem(&std::fs::read(pki.path(&format!("{plain}.key")))?)?;
            let odd = pki.odd_leaf(&name, usage, algorithm, &Odd { key: Some(key), ..odd })?;
            let seal = signer(pki, &plain)?;
            let life = Duration::from_secs(HOUR as u64);
            let mut hcp = seal.issue_hcp(&self::id(), &self.claims, Timestamp::now(), life).await?;
            let trc = self.trc(&hcp).await?;
            hcp.xml = shown(&hcp.xml, &odd.to_der()?);
            let message = self.query(&[hcp, trc]);
            self.push(id, input, &[INTEGRITY], UNTRUSTED, vec![message]);
        }
        // An exponent of 1 makes every padded digest its own signature.
        let modulus = Rsa::generate(2048)?;
        let weak = Rsa::from_public_components(modulus.n().to_owned()?, BigNum::from_u32(1)?)?;
        let odd = Odd { public_key: Some(PKey::from_rsa(weak)?), ..Odd::default() };
        let certificate = pki.odd_leaf("attack-T-ALG-7", Use::Seal, Algorithm::Rsa2048, &odd)?.to_der()?;
        let mut hcp = self.attacker.neighbour.hcp(&self.claims, Timestamp::now()).await?;
        let trc = self.trc(&hcp).await?;
        hcp.xml = shown(&hcp.xml, &certificate);
        let message = self.query(&[hcp, trc]);
        self.push("T-ALG-7", "RSA with exponent 1", &[INTEGRITY], UNTRUSTED, vec![message]);
        if let Some(third) = &self.attacker.third {
            self.sealed("T-KEY-8", "signer of another member state", third, "seal").await?;
        }
        // The country's own authority vouches for another country: all it says fits together, but not with the peer.
        let foreign = subject(&[&[(&C, other)], &[(&CN, "seal")]]);
        pki.odd_leaf("attack-T-KEY-8b", Use::Seal, p256, &Odd { subject: Some(foreign), ..Odd::default() })?;
        let seal = signer(pki, "attack-T-KEY-8b")?;
        let claims = HcpClaims { country: Country::parse(other)?, ..self.claims.clone() };
        let (now, life) = (Timestamp::now(), Duration::from_secs(HOUR as u64));
        let hcp = seal.issue_hcp(&id(), &claims, now, life).await?;
        let facts = TrcClaims { country: claims.country, ..self.trc_claims(&hcp) };
        let trc = seal.issue_trc(&id(), &facts, now, now + SignedDuration::from_hours(1)).await?;
        let message = self.query(&[hcp, trc]);
        let input = "another country's name under the peer's own authority";
        self.push("T-KEY-8b", input, &[INTEGRITY], UNTRUSTED, vec![message]);
        Ok(())
    }

    async fn times(&mut self) -> Result<(), Error> {
        let now = Timestamp::now();
        let hours = SignedDuration::from_hours;
        for (id, input, issued, expected, rule) in [
            ("T-TIM-1", "HCP expired", now - hours(5), INTEGRITY, "expired"),
            ("T-TIM-2", "HCP not yet valid", now + hours(1), INTEGRITY, "not yet valid"),
            ("T-TIM-3", "HCP 30 s early", now + SignedDuration::from_secs(30), SERVED, ""),
        ] {
            let hcp = self.attacker.neighbour.hcp(&self.claims, issued).await?;
            let trc = self.trc(&hcp).await?;
            let message = self.query(&[hcp, trc]);
            self.push(id, input, &[expected], rule, vec![message]);
        }
        let long = self.seal.issue_hcp(&id(), &self.claims, now, Duration::from_secs(5 * HOUR as u64)).await?;
        let trc = self.trc(&long).await?;
        let message = self.query(&[long, trc]);
        self.push("T-TIM-4", "HCP that lives 5 h", &[INTEGRITY], "lives too long", vec![message]);
        let hcp = self.attacker.neighbour.hcp(&self.claims, now).await?;
        let long = self.seal.issue_trc(&id(), &self.trc_claims(&hcp), now, now + hours(3)).await?;
        let message = self.query(&[hcp.clone(), long]);
        self.push("T-TIM-5", "TRC that lives 3 h", &[INTEGRITY], "lives too long", vec![message]);
        let old = self.seal.issue_trc(&id(), &self.trc_claims(&hcp), now - hours(3), now - hours(2)).await?;
        let message = self.query(&[hcp, old]);
        self.push("T-TIM-1b", "TRC expired", &[INTEGRITY], "expired", vec![message]);
        let conditions = |xml: String| {
            let part = super::shapes::part(&xml, "<saml:Conditions ", "</saml:Conditions>");
            xml.replace(&part, "")
        };
        self.edited("T-TIM-6", "HCP without Conditions", &[INTEGRITY], "no Conditions", conditions).await?;
        let backwards = |xml: String| {
            let from = super::shapes::attribute(&xml, "NotBefore");
            xml.replacen(&format!("NotBefore=\"{from}\""), "NotBefore=\"2099-01-01T00:00:00Z\"", 1)
        };
        self.edited("T-TIM-7", "NotBefore after NotOnOrAfter", &[INTEGRITY], "ends before", backwards).await?;
        let soon = (now + SignedDuration::from_mins(30)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        for (id, input, name) in
            [("T-TIM-2b", "IssueInstant in half an hour", "IssueInstant"), ("T-TIM-2c", "NotBefore then", "NotBefore")]
        {
            let later = |xml: String| {
                let from = super::shapes::attribute(&xml, name);
                xml.replacen(&format!("{name}=\"{from}\""), &format!("{name}=\"{soon}\""), 1)
            };
            self.edited(id, input, &[INTEGRITY], "not yet valid", later).await?;
        }
        Ok(())
    }

    async fn bindings(&mut self) -> Result<(), Error> {
        let foreign = |xml: String| xml.replace(ncp_saml::AUDIENCE, "urn:other:country");
        self.edited("T-BND-1", "audience of another country", &[INTEGRITY], "audience", foreign).await?;
        let recipient = |xml: String| {
            let part = super::shapes::part(&xml, "<saml:SubjectConfirmation ", "/>");
            let open = part.trim_end_matches("/>").trim_end();
            let data = "<saml:SubjectConfirmationData Recipient=\"https://elsewhere.example\"/>";
            xml.replace(&part, &format!("{open}>{data}</saml:SubjectConfirmation>"))
        };
        self.edited("T-BND-2", "Recipient of another endpoint", &[INTEGRITY], "audience", recipient).await?;

        let now = Timestamp::now();
        let until = now + SignedDuration::from_hours(1);
        let hcp = self.attacker.neighbour.hcp(&self.claims, now).await?;
        let facts = self.trc_claims(&hcp);
        let trc_id = id();
        let without = trc_template(&trc_id, &facts, now, until).to_xml();
        let advice = super::shapes::part(&without, "<saml:Advice>", "</saml:Advice>");
        let without = Element::parse(without.replace(&advice, "").as_bytes(), &Limits::REQUEST)?;
        let trc = self.seal.sign(&trc_id, without).await?;
        let message = self.query(&[hcp.clone(), trc]);
        self.push("T-BND-3", "TRC without link to the HCP", &["1002"], "trc binding", vec![message]);
        for (id, input, changed) in [
            ("T-BND-4", "TRC linked to another HCP", TrcClaims { hcp_id: "_other".into(), ..facts.clone() }),
            ("T-BND-6", "TRC of another subject", TrcClaims { name_id: "somebody".into(), ..facts.clone() }),
        ] {
            let trc = self.seal.issue_trc(&self::id(), &changed, now, until).await?;
            let message = self.query(&[hcp.clone(), trc]);
            self.push(id, input, &["1002"], "trc binding", vec![message]);
        }
        // ON-06: the purpose of a treatment may be more specific than that of the login, never less.
        for (id, input, login, treatment, expected) in [
            ("T-BND-6b", "TRC for TREATMENT, login for EMERGENCY", Purpose::Emergency, Purpose::Treatment, "1002"),
            ("T-BND-6f", "TRC for EMERGENCY, login for TREATMENT", Purpose::Treatment, Purpose::Emergency, SERVED),
        ] {
            let claims = HcpClaims { purpose: login, ..self.claims.clone() };
            let hcp = self.attacker.neighbour.hcp(&claims, now).await?;
            let facts = TrcClaims { purpose: treatment, ..self.trc_claims(&hcp) };
            let trc = self.seal.issue_trc(&self::id(), &facts, now, until).await?;
            let message = self.query(&[hcp, trc]);
            self.push(id, input, &[expected], "", vec![message]);
        }
        if let Some(third) = &self.attacker.third {
            let trc = signer(third, "seal")?.issue_trc(&id(), &facts, now, until).await?;
            let message = self.query(&[hcp.clone(), trc]);
            // The signer of another country is not trusted at all, which is found before the binding.
            self.push("T-BND-5", "TRC signed by another country", &["1002", INTEGRITY], UNTRUSTED, vec![message]);
        }
        let trc_id = id();
        let organised = trc_template(&trc_id, &facts, now, until).to_xml();
        let attribute = "<saml:Attribute Name=\"urn:oasis:names:tc:xspa:1.0:subject:organization-id\"><saml:AttributeValue>urn:oid:2.999.1</saml:AttributeValue></saml:Attribute></saml:AttributeStatement>";
        let organised = organised.replace("</saml:AttributeStatement>", attribute);
        let trc = self.seal.sign(&trc_id, Element::parse(organised.as_bytes(), &Limits::REQUEST)?).await?;
        let facts_hcp = hcp.clone();
        let message = self.query(&[hcp, trc]);
        self.push("T-BND-7", "TRC of another organisation", &["1002"], "trc binding", vec![message]);

        // What only a TRC must say, and what only one assertion may.
        for (id, input, rule, from, to) in [
            (
                "T-BND-6c",
                "TRC confirmed by the holder of a key",
                "subject confirmation",
                "sender-vouches",
                "holder-of-key",
            ),
            ("T-BND-6d", "TRC with a login of its own", "authn context", "PreviousSession", "SmartcardPKI"),
        ] {
            let trc_id = self::id();
            let template = trc_template(&trc_id, &facts, now, until).to_xml().replace(from, to);
            let trc = self.seal.sign(&trc_id, Element::parse(template.as_bytes(), &Limits::REQUEST)?).await?;
            let message = self.query(&[facts_hcp.clone(), trc]);
            self.push(id, input, &[INTEGRITY], rule, vec![message]);
        }
        let moved = |xml: String| {
            let issuer = super::shapes::part(&xml, "<saml:Issuer ", "</saml:Issuer>");
            let subject = super::shapes::part(&xml, "<saml:Subject>", "</saml:Subject>");
            xml.replace(&subject, &issuer).replacen(&issuer, &subject, 1)
        };
        self.edited("T-XSW-14b", "Issuer after the Signature, signed so", &[INTEGRITY], "signature.place", moved)
            .await?;
        let version = |xml: String| xml.replacen("Version=\"2.0\"", "Version=\"1.1\"", 1);
        self.edited("T-BND-6e", "SAML 1.1 by its Version", &[INTEGRITY], "version", version).await?;
        let logins = |xml: String| {
            let one = super::shapes::part(&xml, "<saml:AuthnStatement ", "</saml:AuthnStatement>");
            xml.replacen(&one, &one.repeat(2), 1)
        };
        self.edited("T-ROL-7b", "two logins", &[INTEGRITY], "AuthnStatement stands too often", logins).await?;
        for (id, input, hcp_id, name_id, expected) in [
            ("T-BND-3b", "next of kin of another HCP assertion", "_other", facts.name_id.as_str(), "1002"),
            ("T-BND-3c", "next of kin of another subject", facts.hcp_id.as_str(), "somebody", "1002"),
            ("T-BND-3d", "next of kin bound as it should be", facts.hcp_id.as_str(), facts.name_id.as_str(), SERVED),
        ] {
            let kin = NextOfKinClaims {
                country: facts.country,
                name_id: name_id.into(),
                hcp_id: hcp_id.into(),
                kin: NextOfKin { id: "kin-1".into(), ..NextOfKin::default() },
            };
            let nok = self.seal.issue_nok(&self::id(), &kin, now, until).await?;
            let trc = self.seal.issue_trc(&self::id(), &facts, now, until).await?;
            let message = self.query(&[nok, facts_hcp.clone(), trc]);
            let rule = if expected == SERVED { "" } else { "trc binding" };
            self.push(id, input, &[expected], rule, vec![message]);
        }

        // Country of TLS, signer, Issuer text and registration.
        if let Some(third) = &self.attacker.third_neighbour {
            let message = self.query(&self.attacker.neighbour.assertions(&self.attacker.patient).await?);
            let message = Message { by_third: true, ..message };
            let input = format!("TLS of {}, assertions of {}, both valid", third.country, self.claims.country);
            self.push("T-BND-17", &input, &[INTEGRITY], "", vec![message]);
            let country = third.country;
            let input = "Issuer text names another country than the signer";
            self.claimed("T-BND-17b", input, &[INTEGRITY], "another country", |c| c.country = country).await?;
        }
        let input = "home community of the assertion is not the peer's";
        self.claimed("T-BND-15", input, &[INTEGRITY], "", |c| c.home_community_id = "urn:oid:2.999.9".into()).await
    }

    async fn roles(&mut self) -> Result<(), Error> {
        let rights = &["4703"];
        self.claimed("T-ROL-1", "unknown role code", rights, "", |c| c.role.code = "9999".into()).await?;
        let free = |c: &mut HcpClaims| {
            c.role = Code {
                code: "doctor".into(),
                system: String::new(),
                system_name: String::new(),
                display: "Doctor".into(),
            };
        };
        self.claimed("T-ROL-2", "role as free text", rights, "", free).await?;
        let twice = |xml: String| {
            let value = super::shapes::part(&xml, "<Role ", "/>");
            xml.replacen(&value, &format!("{value}</saml:AttributeValue><saml:AttributeValue>{value}"), 1)
        };
        self.edited("T-ROL-3", "two roles", &["4703", INTEGRITY], "role stands too often", twice).await?;
        let missing = |c: &mut HcpClaims| c.permissions = vec!["PRD-006".into()];
        self.claimed("T-ROL-4", "permission missing", rights, "", missing).await?;
        let purpose = |xml: String| xml.replace("code=\"TREATMENT\"", "code=\"RESEARCH\"");
        self.edited("T-ROL-5", "purpose not allowed", &["4703", INTEGRITY], "purpose", purpose).await?;
        let mut claims = self.claims.clone();
        claims.purpose = Purpose::Emergency;
        let hcp = self.attacker.neighbour.hcp(&claims, Timestamp::now()).await?;
        let message = self.query(&[hcp]);
        let input = "EMERGENCY without treatment relationship";
        self.push("T-ROL-6", input, &["1001", "4703"], "", vec![message]);
        let password = "urn:oasis:names:tc:SAML:2.0:ac:classes:Password";
        self.claimed("T-ROL-7", "single-factor login", &["4702"], "", |c| c.authn_context_class = password.into())
            .await?;
        let national = |c: &mut HcpClaims| c.role.system = "2.16.578.1.12.4.1.1.9060".into();
        self.claimed("T-ROL-8", "national code with the number of a wider role", rights, "", national).await?;
        let renamed = |c: &mut HcpClaims| c.role.display = "Pharmacists".into();
        self.claimed("T-ROL-9", "code of one version with the name of another", rights, "", renamed).await
    }

    async fn replays(&mut self) -> Result<(), Error> {
        let assertions = self.attacker.neighbour.assertions(&self.attacker.patient).await?;
        if self.attacker.third_neighbour.is_some() {
            let (first, second) = (self.query(&assertions), self.query(&assertions));
            let messages = vec![first, Message { by_third: true, ..second }];
            self.push("T-TIM-8", "assertions replayed by another country", &[INTEGRITY], "", messages);
        }
        // The same TRC id for another patient takes the country's own seal to make.
        let claims = self.claims.clone();
        let hcp = self.attacker.neighbour.hcp(&claims, Timestamp::now()).await?;
        let (trc_id, now) = (id(), Timestamp::now());
        let until = now + SignedDuration::from_hours(1);
        let one = self.seal.issue_trc(&trc_id, &self.trc_claims(&hcp), now, until).await?;
        let other = TrcClaims { patient: self.attacker.other.to_cx(), ..self.trc_claims(&hcp) };
        let two = self.seal.issue_trc(&trc_id, &other, now, until).await?;
        let first = self.query(&[hcp.clone(), one]);
        let body = Neighbour::find_documents(&self.attacker.other).to_element();
        let second = self.attacker.signed_message(actions::ITI38_REQUEST, &[hcp, two], body);
        self.push("T-TIM-9", "TRC id used again for another patient", &[INTEGRITY], "", vec![first, second]);
        // A MessageID used again for another message.
        let first = self.query(&self.attacker.neighbour.assertions(&self.attacker.patient).await?);
        let mut second = self.query(&self.attacker.neighbour.assertions(&self.attacker.patient).await?);
        let message_id = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let at = text.find("MessageID").unwrap_or_default();
            let at = at + text[at..].find('>').map_or(0, |end| end + 1);
            text[at..].split('<').next().unwrap_or_default().to_owned()
        };
        let (old, new) = (message_id(&second.bytes), message_id(&first.bytes));
        second.bytes = String::from_utf8_lossy(&second.bytes).replace(&old, &new).into_bytes();
        self.push("T-TIM-9b", "MessageID used for another message", &[INTEGRITY], "", vec![first, second]);
        let patient: PatientId = self.attacker.patient.clone();
        let all: Vec<Message> = vec![self.query(&self.attacker.neighbour.assertions(&patient).await?)];
        self.push("good", "a good request is still served", &[SERVED], "", all);
        let odd = "A&B <\u{e9}> e\u{301} \u{212b}\u{1e9b}\u{323}";
        let names = |c: &mut HcpClaims| c.organisation = format!("{odd}\r\n\ttab");
        self.claimed("T-C14-6", "CR, LF, TAB and non-NFC names, signed", &[SERVED], "", names).await
    }
}

/// The assertion with another certificate in KeyInfo.
fn shown(xml: &str, certificate: &[u8]) -> String {
    let old = super::shapes::part(xml, "<ds:X509Certificate>", "</ds:X509Certificate>");
    let new = format!("<ds:X509Certificate>{}</ds:X509Certificate>", openssl::base64::encode_block(certificate));
    xml.replace(&old, &new)
}

/// DER of the subject of a leaf of the folder.
fn subject_of(pki: &CountryPki, name: &str) -> Result<Vec<u8>, Error> {
    let pem = std::fs::read(pki.path(&format!("{name}.pem")))?;
    Ok(openssl::x509::X509::from_pem(&pem)?.subject_name().to_der()?)
}
