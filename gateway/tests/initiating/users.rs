//! Who a national consumer's user is: what the assertions say of her must hold before another country hears of her.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_ihe::{Oid, PatientId};
use ncp_saml::{HcpClaims, SignedAssertion, hcp_template};
use ncp_tests::attack::{SERVED, verdict};
use ncp_tests::consumer::treatment_request;
use ncp_tests::country::Country;
use ncp_tests::neighbour::Neighbour;
use ncp_xml::Element;

use crate::{Others, World, entry, listed, patient};

async fn world() -> (World, Vec<Country>) {
    let others = Others::none().with("AA", "2.999.101", |_| listed(vec![entry("2.999.101", 1)])).await;
    others.world("").await
}

/// What ITI-18 with these assertions is answered, and how many questions reached the other country.
async fn ask(world: &World, countries: &[Country], assertions: &[SignedAssertion]) -> (String, usize) {
    let before = countries[0].asked().len();
    let body = Neighbour::find_documents(&patient()).to_element();
    let answer = world.consumer.call(assertions, body).await.expect("answers");
    let said = answer.fault().map_or_else(|| verdict(&answer), |fault| fault.subcode);
    (said, countries[0].asked().len() - before)
}

/// Asks for a TRC assertion for the patient.
fn token() -> Element {
    treatment_request(&patient().to_cx(), "TREATMENT")
}

#[tokio::test]
async fn co_09_a_user_for_one_patient_is_no_user_for_another() {
    let (world, countries) = world().await;
    let other = PatientId::new("4712", Oid::parse(crate::PATIENTS).expect("oid")).expect("an id");
    let elsewhere = PatientId::new("4711", Oid::parse("2.999.9").expect("oid")).expect("an id");
    for (named, expected) in
        [(patient(), (SERVED, 1)), (other, ("wsse:FailedCheck", 0)), (elsewhere, ("wsse:FailedCheck", 0))]
    {
        let user = world.consumer.xua(&world.claims, Some(&named)).await.expect("signs");
        let trc = world.consumer.trc(&user, &world.claims, &patient()).await.expect("signs");
        let (said, asked) = ask(&world, &countries, &[user, trc]).await;
        assert_eq!((said.as_str(), asked), expected, "{}", named.to_cx());
    }
}

#[tokio::test]
async fn co_12_a_login_that_no_country_takes_is_refused_here() {
    let (world, countries) = world().await;
    let class = |name: &str| format!("urn:oasis:names:tc:SAML:2.0:ac:classes:{name}");
    let ago = |hours| Timestamp::now() - SignedDuration::from_hours(hours);
    for (name, at, expected) in [
        ("SmartcardPKI", ago(0), (SERVED, 1)),
        ("SmartcardPKI", ago(23), (SERVED, 1)),
        ("SmartcardPKI", ago(25), ("wsse:InvalidSecurityToken", 0)),
        ("SmartcardPKI", ago(31 * 24), ("wsse:InvalidSecurityToken", 0)),
        ("SmartcardPKI", ago(-1), ("wsse:InvalidSecurityToken", 0)),
        ("Password", ago(0), ("wsse:FailedAuthentication", 0)),
        ("PasswordProtectedTransport", ago(0), ("wsse:FailedAuthentication", 0)),
        ("unspecified", ago(0), ("wsse:FailedAuthentication", 0)),
    ] {
        let claims = HcpClaims { authn_context_class: class(name), authn_instant: at, ..world.claims.clone() };
        let assertions = world.consumer.assertions(&claims, &patient()).await.expect("signs");
        let (said, asked) = ask(&world, &countries, &assertions).await;
        assert_eq!((said.as_str(), asked), expected, "{name} {at}");
    }

    // The endpoint that issues treatments judges a login by the same rule.
    for (hours, served) in [(0, true), (23, true), (25, false)] {
        let claims = HcpClaims { authn_instant: ago(hours), ..world.claims.clone() };
        let hcp = hcp(&world, &claims).await;
        let answer = world.consumer.token(&[hcp], token()).await.expect("answers");
        assert_eq!(answer.fault().is_none(), served, "{hours}: {:?}", answer.fault());
    }
}

/// An identity assertion in the form of the eHDSI profile, for its audience.
async fn hcp(world: &World, claims: &HcpClaims) -> SignedAssertion {
    let id = format!("_{}", uuid::Uuid::new_v4());
    let text = hcp_template(&id, claims, Timestamp::now(), Duration::from_secs(3600)).to_xml();
    world.consumer.sign(&id, &text).await.expect("signs")
}

#[tokio::test]
async fn co_19_an_audience_is_ours_for_both_endpoints() {
    let (world, countries) = world().await;
    let hcp = hcp(&world, &world.claims).await;
    let asked = token();
    let answer = world.consumer.token(std::slice::from_ref(&hcp), asked).await.expect("answers");
    assert!(answer.fault().is_none(), "{:?}", answer.fault());
    // A treatment that the users' own issuer confirms, since its seal is the one that consumers show.
    let trc = world.consumer.trc(&hcp, &world.claims, &patient()).await.expect("signs");
    let (said, asked) = ask(&world, &countries, &[hcp, trc]).await;
    assert_eq!((said.as_str(), asked), (SERVED, 1));
}
