//! Rows with good assertions whose request names what it may not: other patients, other communities, what is closed.

use ncp_ihe::{DocumentRequest, HomeCommunityId, Oid, RetrieveRequest, actions};
use ncp_saml::SignedAssertion;

use super::{Attacker, MALFORMED, Message, Row, SERVED};
use crate::neighbour::Neighbour;
use crate::pki::Error;

/// What is answered for what does not exist.
pub(super) const ABSENT: &str = "XDSDocumentUniqueIdError";
const COMMUNITY: &str = "XDSUnknownCommunity";

pub(super) async fn rows(attacker: &Attacker) -> Result<Vec<Row>, Error> {
    let mut out = Vec::new();
    let mut push = |id: &str, input: &str, expected: &[&'static str], message: Message| {
        let (id, input, expected) = (id.into(), input.into(), expected.to_vec());
        out.push(Row { id, input, expected, rule: "", messages: vec![message] });
    };
    let good = || attacker.neighbour.assertions(&attacker.patient);

    // The patient of the query against that of the TRC.
    let cx = attacker.patient.to_cx();
    let (extension, authority) = cx.split_once("^^^").ok_or("no CX")?;
    let flip = |text: &str| match text.chars().any(|c| c.is_ascii_lowercase()) {
        true => text.to_ascii_uppercase(),
        false => text.to_ascii_lowercase(),
    };
    let wide: String =
        extension.chars().map(|c| c.to_digit(10).and_then(|d| char::from_u32(0xff10 + d)).unwrap_or(c)).collect();
    let entity = format!("&#x{:x};{}", extension.as_bytes()[0], &extension[1..]);
    for (id, input, written) in [
        ("T-PAT-1", "case of the authority", format!("{extension}^^^{}", flip(authority))),
        ("T-PAT-2", "trailing space", format!("{extension} ^^^{authority}")),
        ("T-PAT-3", "another assigning authority", format!("{extension}^^^{}", authority.replace("&ISO", ".1&ISO"))),
        ("T-PAT-4", "a character reference, twice escaped", format!("{entity}^^^{authority}")),
        ("T-PAT-5", "full-width digits", format!("{wide}^^^{authority}")),
    ] {
        let mut message = query(attacker, &good().await?, None);
        let escape = |text: &str| text.replace('&', "&amp;");
        let text = String::from_utf8(message.bytes)?;
        let at = text.rfind(&escape(&cx)).ok_or("the query names the patient")?;
        let changed = format!("{}{}{}", &text[..at], escape(&written), &text[at + escape(&cx).len()..]);
        message.bytes = changed.into_bytes();
        let input = format!("patient of the query: {input}");
        push(id, &input, &["4206", MALFORMED, "XDSStoredQueryParamNumber", "XDSRegistryError"], message);
    }
    let other = Neighbour::find_documents(&attacker.other).to_element();
    let message = attacker.signed_message(actions::ITI38_REQUEST, &good().await?, other);
    push("T-BND-8", "query for another patient than the TRC's", &["4206"], message);
    let (repository, document) = &attacker.foreign_document;
    let target = attacker.target.clone();
    let message = retrieve(attacker, &good().await?, &[(Some(target.clone()), repository, document)])?;
    push("T-BND-9", "retrieve of another patient's document", &[ABSENT], message);
    let trc_of_other = attacker.neighbour.assertions(&attacker.other).await?;
    let message = query(attacker, &trc_of_other, None);
    push("T-BND-10", "TRC for one patient, query for another", &["4206"], message);

    // Communities.
    let home = |text: &str| HomeCommunityId::parse(text);
    let own = attacker.neighbour.home.clone();
    for (id, input, home) in
        [("T-BND-11", "homeCommunityId of a third country", home("2.999.9999")?), ("T-BND-12", "its own id", own)]
    {
        let message = query(attacker, &good().await?, Some(home));
        push(id, input, &[COMMUNITY], message);
    }
    let message = query(attacker, &good().await?, Some(target.clone()));
    let text = String::from_utf8(message.bytes)?;
    let attribute = format!("home=\"{target}\"");
    if !text.contains(&attribute) {
        return Err("the query names its community".into());
    }
    for (id, input, new) in
        [("T-BND-13", "empty homeCommunityId", "home=\"\""), ("T-BND-14", "unknown form", "home=\"urn:x:y\"")]
    {
        let bytes = text.replace(&attribute, new).into_bytes();
        push(
            id,
            input,
            &[COMMUNITY, MALFORMED, "XDSMissingHomeCommunityId"],
            Message { bytes, ..query(attacker, &[], None) },
        );
    }
    let mixed = [
        (Some(home("2.999.9999")?), repository.as_str(), document.as_str()),
        (Some(target.clone()), repository.as_str(), "2.999.404.404"),
    ];
    let message = retrieve(attacker, &good().await?, &mixed)?;
    let each = "XDSDocumentUniqueIdError+XDSUnknownCommunity";
    push("T-BND-16", "two communities in one RetrieveDocumentSet", &[COMMUNITY, each], message);

    if let Some((repository, document)) = &attacker.blocked_document {
        let blocked = [(Some(target.clone()), repository.as_str(), document.as_str())];
        let message = retrieve(attacker, &good().await?, &blocked)?;
        push("T-CNS-1", "retrieve of a document that the patient blocked", &[ABSENT], message);
        let absent = [(Some(target), repository.as_str(), "2.999.404.404")];
        let message = retrieve(attacker, &good().await?, &absent)?;
        push("T-CNS-1b", "retrieve of a document that does not exist", &[ABSENT], message);
    }
    let message = query(attacker, &good().await?, None);
    push("T-BND-good", "a good query", &[SERVED], message);
    Ok(out)
}

fn query(attacker: &Attacker, assertions: &[SignedAssertion], home: Option<HomeCommunityId>) -> Message {
    let mut request = Neighbour::find_documents(&attacker.patient);
    request.home = home;
    attacker.signed_message(actions::ITI38_REQUEST, assertions, request.to_element())
}

fn retrieve(
    attacker: &Attacker,
    assertions: &[SignedAssertion],
    wanted: &[(Option<HomeCommunityId>, &str, &str)],
) -> Result<Message, Error> {
    let documents = wanted
        .iter()
        .map(|(home, repository, document)| {
            Ok(DocumentRequest {
                home: home.clone(),
                repository: Oid::parse(repository)?,
                document: (*document).to_owned(),
            })
        })
        .collect::<Result<_, Error>>()?;
    let body = RetrieveRequest { documents }.to_element();
    Ok(attacker.signed_message(actions::ITI39_REQUEST, assertions, body))
}
