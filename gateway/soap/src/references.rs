//! References from Includes to parts (RFC 2392).

use std::collections::{BTreeMap, BTreeSet};

use ncp_xml::{Charge, Element, XmlError};
use percent_encoding::percent_decode_str;

use crate::SoapError;
use crate::ns::XOP;

/// Memory of the references of one message, bytes: more than as many parts as an answer may have need.
const HELD: usize = 16 << 20;
/// What a reference takes beside its texts, and what a part that was called does.
const REFERENCE: usize = 112;

/// The Includes of a message, and the parts that were called by them so far.
#[derive(Default)]
pub(crate) struct References {
    /// Decoded references by their undecoded spelling; none where both are the same.
    by_spelling: BTreeMap<String, Option<String>>,
    /// The decoded ones that are spelled otherwise.
    decoded: BTreeSet<String>,
    met: BTreeSet<String>,
    held: usize,
}

impl References {
    /// The Includes of a body; what they take is counted with the message.
    ///
    /// # Errors
    /// More than any answer has; other messages have the memory.
    pub(crate) fn of(body: &Element, charge: &mut Charge) -> Result<Self, SoapError> {
        let mut found = Self::default();
        let mut open = vec![body];
        while let Some(element) = open.pop() {
            if element.is(XOP, "Include")
                && let (Some(spelling), Ok(id)) = (spelling(element), decoded(element))
            {
                let key = normal(spelling);
                let is_plain = key == id;
                found.hold(REFERENCE + key.len() + if is_plain { 0 } else { REFERENCE + 2 * id.len() }, charge)?;
                if is_plain {
                    found.by_spelling.insert(key, None);
                } else {
                    found.decoded.insert(id.clone());
                    found.by_spelling.insert(key, Some(id));
                }
            }
            open.extend(element.elements());
        }
        Ok(found)
    }

    fn hold(&mut self, bytes: usize, charge: &mut Charge) -> Result<(), SoapError> {
        self.held += bytes;
        if self.held > HELD {
            return Err(XmlError::Memory.into());
        }
        Ok(charge.grow(bytes)?)
    }

    /// The name under which a part is asked for: its Content-ID where a decoded reference says it (RFC 2392 2), else the
    /// reference that is spelled as the Content-ID is, both percent-coded.
    ///
    /// # Errors
    /// Two parts that one reference could mean.
    pub(crate) fn called(&mut self, content_id: String) -> Result<String, SoapError> {
        let normal = normal(&content_id);
        let spelled = self.by_spelling.get(&normal).map(|id| id.as_ref().unwrap_or(&normal));
        let is_decoded = self.decoded.contains(&content_id) || self.by_spelling.get(&content_id) == Some(&None);
        let name = match (is_decoded, spelled) {
            (true, Some(other)) if *other != content_id => return Err(SoapError::UnresolvedInclude),
            (true, _) => content_id,
            (false, Some(id)) => id.clone(),
            (false, None) => return Ok(content_id),
        };
        if self.met.insert(name.clone()) { Ok(name) } else { Err(SoapError::UnresolvedInclude) }
    }
}

/// The Content-ID that an Include names.
pub(crate) fn decoded(include: &Element) -> Result<String, SoapError> {
    let id = spelling(include).ok_or(SoapError::UnresolvedInclude)?;
    let id = percent_decode_str(id).decode_utf8().map_err(|_| SoapError::UnresolvedInclude)?;
    Ok(id.into_owned())
}

fn spelling(include: &Element) -> Option<&str> {
    include.get("href")?.strip_prefix("cid:")
}

/// With the letters of percent codes in capitals, since %3a is %3A (RFC 3986 2.1), and without a code for "@", which every id
/// has in its middle (RFC 2392 2) and which some stacks code in the reference alone.
fn normal(id: &str) -> String {
    let mut digits = 0;
    let upper = |c: char| {
        digits = if c == '%' { 3_u8 } else { digits.saturating_sub(1) };
        if digits > 0 { c.to_ascii_uppercase() } else { c }
    };
    id.chars().map(upper).collect::<String>().replace("%40", "@")
}
