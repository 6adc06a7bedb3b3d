//! Finland is its named certificates: what else its authority issued, for whatever purpose, is not Finland's NCP (SE-10).
//! All of them have one root here, so that the names alone tell them apart.

#![allow(clippy::print_stdout)]

use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::{Algorithm, Use};

use crate::world::{World, patient};

const SERVED: &str = "served";
const REFUSED: &str = "ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED";
const NO_CONNECTION: &str = "no connection";

#[tokio::test(flavor = "multi_thread")]
async fn se_10_only_the_named_keys_are_finland() {
    let world = World::start().await;
    let (finland, anchors) = (world.pki("fi", "FI"), world.pki("pki", "NO").path("anchors.pem"));
    finland.leaf("consumer", Use::Client, Algorithm::P256, 0, 90).expect("a leaf");
    finland.leaf("xua", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
    for (connects, signs, expected) in [
        ("tls-client", "seal", SERVED),
        ("tls-client", "xua", REFUSED),
        ("consumer", "seal", NO_CONNECTION),
        ("internal-client", "seal", NO_CONNECTION),
        ("reader", "seal", NO_CONNECTION),
        ("xua", "seal", NO_CONNECTION),
        ("seal", "seal", NO_CONNECTION),
        ("tls-server", "seal", NO_CONNECTION),
        ("consumer", "xua", NO_CONNECTION),
    ] {
        let home = "2.999.246";
        let neighbour = Neighbour::showing(&finland, home, &anchors, "127.0.0.1", world.port(), (connects, signs));
        let neighbour = neighbour.expect("a neighbour");
        let assertions = neighbour.assertions(&patient()).await.expect("signs");
        let request = Neighbour::find_documents(&patient()).to_element();
        let got = match neighbour.call(ncp_ihe::actions::ITI38_REQUEST, XCA, &assertions, request).await {
            Err(_) => NO_CONNECTION.to_owned(),
            Ok(answer) if answer.codes().is_empty() && answer.fault().is_none() => SERVED.into(),
            Ok(answer) => answer.codes().join(" "),
        };
        println!("{connects:<16} {signs:<6} {got}");
        assert_eq!(got, expected, "{connects} {signs}: {}", world.log());
    }
    // Each refused handshake and signer left its record.
    let records = world.trail().ihe;
    let of_type = |code: &str| records.iter().filter(|r| r.types.iter().any(|kind| kind.code == code)).count();
    assert!(of_type("110126") >= 7, "a record of each refused handshake: {}", of_type("110126"));
    assert!(world.serves().await);
}
