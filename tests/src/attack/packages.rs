//! Packages with good assertions whose parts are coded, empty, or in another charset than their receiver reads.

use ncp_ihe::actions;

use super::{Attacker, MALFORMED, Message, Row, SERVED};
use crate::neighbour::Neighbour;
use crate::pki::Error;

/// Begins each package.
pub(super) const DELIMITER: &str = "--ncp-attack";
pub(super) const PACKAGE: &str = "multipart/related; boundary=\"ncp-attack\"; type=\"application/xop+xml\"; start=\"<r>\"; \
                                  start-info=\"application/soap+xml\"";

pub(super) async fn rows(attacker: &Attacker) -> Result<Vec<Row>, Error> {
    let mut out = Vec::new();
    for (id, input, expected, before, fields) in [
        ("T-MIM-12", "root part in base64", SERVED, "", "Content-Transfer-Encoding: base64\r\n"),
        (
            "T-MIM-13",
            "root part in a coding that nobody knows",
            MALFORMED,
            "",
            "Content-Transfer-Encoding: x-uuencode\r\n",
        ),
        (
            "T-MIM-14",
            "root part with two codings",
            MALFORMED,
            "",
            "Content-Transfer-Encoding: binary\r\nContent-Transfer-Encoding: base64\r\n",
        ),
        ("T-MIM-15", "an empty part in its short form before the root", SERVED, "Content-ID: <e>\r\n\r\n", ""),
        (
            "T-MIM-16",
            "root part in UTF-16",
            "HTTP 415 Sender",
            "",
            "Content-Type: application/xop+xml; charset=UTF-16\r\n",
        ),
        (
            "T-MIM-17",
            "a part in a coding that nobody knows, which the request does not need",
            SERVED,
            "Content-ID: <e>\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\nanything\r\n",
            "",
        ),
    ] {
        let assertions = attacker.neighbour.assertions(&attacker.patient).await?;
        let body = Neighbour::find_documents(&attacker.patient).to_element();
        let message = attacker.signed_message(actions::ITI38_REQUEST, &assertions, body);
        let root = match fields.ends_with(": base64\r\n") && expected == SERVED {
            true => openssl::base64::encode_block(&message.bytes).into_bytes(),
            false => message.bytes,
        };
        let before = if before.is_empty() { String::new() } else { format!("{DELIMITER}\r\n{before}") };
        let head = format!("{before}{DELIMITER}\r\nContent-ID: <r>\r\n{fields}\r\n");
        let bytes = [head.as_bytes(), &root, format!("\r\n{DELIMITER}--\r\n").as_bytes()].concat();
        let messages = vec![Message { bytes, ..message }];
        out.push(Row { id: id.into(), input: input.into(), expected: vec![expected], rule: "", messages });
    }
    Ok(out)
}
