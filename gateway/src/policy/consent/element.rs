//! Elements of FHIR as JSON has them. What is there and cannot be read is an error, and never as if it were absent.

use serde_json::{Map, Value};

/// What cannot be read, without a word of the message.
pub(super) type Unread = &'static str;

/// Values of one element.
const VALUES: usize = 5_000;

pub(super) fn object(value: &Value) -> Result<&Map<String, Value>, Unread> {
    value.as_object().ok_or("an element that is no object")
}

/// No element beside those that are read, and none that changes their meaning.
pub(super) fn only(object: &Map<String, Value>, read: &[&str]) -> Result<(), Unread> {
    let known = |name: &String| read.contains(&name.as_str());
    if object.keys().all(known) { Ok(()) } else { Err("an element that is not understood") }
}

pub(super) fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], Unread> {
    match object.get(name) {
        None => Ok(&[]),
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= VALUES => Ok(items),
        Some(_) => Err("a list that is none"),
    }
}

pub(super) fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Unread> {
    match object.get(name) {
        None => Ok(None),
        // No string of FHIR begins or ends with white space, and one that did would fit nothing.
        Some(Value::String(text)) if !text.is_empty() && text.trim() == text => Ok(Some(text)),
        Some(_) => Err("a text that is none"),
    }
}

/// The codings of a CodeableConcept, at least one.
pub(super) fn codings(concept: &Value) -> Result<Vec<(Option<&str>, &str)>, Unread> {
    let concept = object(concept)?;
    only(concept, &["id", "extension", "coding", "text"])?;
    let all = list(concept, "coding")?.iter().map(coding).collect::<Result<Vec<_>, _>>()?;
    if all.is_empty() { Err("a concept without a code") } else { Ok(all) }
}

pub(super) fn coding(coding: &Value) -> Result<(Option<&str>, &str), Unread> {
    let coding = object(coding)?;
    only(coding, &["id", "extension", "system", "version", "code", "display", "userSelected"])?;
    Ok((text(coding, "system")?, text(coding, "code")?.ok_or("a coding without a code")?))
}

pub(super) fn identifier_of(identifier: &Value) -> Result<(Option<&str>, &str), Unread> {
    let identifier = object(identifier)?;
    only(identifier, &["id", "extension", "use", "type", "system", "value", "assigner"])?;
    // An identifier that is no longer in use names somebody else now, or nobody.
    if text(identifier, "use")? == Some("old") || identifier.contains_key("period") {
        return Err("an identifier that is out of use");
    }
    Ok((text(identifier, "system")?, text(identifier, "value")?.ok_or("an identifier without value")?))
}

/// A Reference.
pub(super) fn referenced(reference: &Value) -> Result<&Map<String, Value>, Unread> {
    let reference = object(reference)?;
    only(reference, &["id", "extension", "reference", "type", "identifier", "display"])?;
    Ok(reference)
}
