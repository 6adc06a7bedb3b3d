//! The schema of whole envelopes, by xmllint. Includes are replaced by the base64 of their part first, since a
//! base64Binary cannot hold an element.

use std::path::Path;
use std::process::Command;

use ncp_xml::{Element, Limits, Node};

use super::{Finding, Message, Report};
use crate::pki::Error;

const XOP: &str = "http://www.w3.org/2004/08/xop/include";
/// Files in one call of xmllint: compiling the schemas takes longer than the messages.
const AT_ONCE: usize = 200;

pub(super) fn check(messages: &[&Message], schema: &Path, report: &mut Report) -> Result<(), Error> {
    let folder = std::env::temp_dir().join(format!("ncp-messages-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder)?;
    let done = validate(messages, schema, &folder, report);
    std::fs::remove_dir_all(&folder)?;
    done
}

fn validate(messages: &[&Message], schema: &Path, folder: &Path, report: &mut Report) -> Result<(), Error> {
    for batch in messages.chunks(AT_ONCE) {
        let mut run = Command::new("xmllint");
        run.args(["--nonet", "--noout", "--schema"]).arg(schema);
        for message in batch {
            let path = folder.join(&message.name);
            std::fs::write(&path, resolved(message)?)?;
            run.arg(path);
        }
        let out = run.output().map_err(|e| format!("xmllint: {e}; install libxml2-utils"))?;
        let said = String::from_utf8_lossy(&out.stderr);
        let valid = said.lines().filter(|line| line.ends_with(" validates")).count();
        let before = report.findings.len();
        for message in batch {
            let path = folder.join(&message.name).to_string_lossy().into_owned();
            *report.judged.entry(0).or_default() += 1;
            let errors: Vec<&str> = said
                .lines()
                .filter_map(|line| line.strip_prefix(path.as_str()))
                .filter(|line| line.contains("error :"))
                .collect();
            if said.contains(&format!("{path} fails to validate")) || !errors.is_empty() {
                let what = errors.first().copied().unwrap_or("fails to validate").trim_start_matches(':').to_owned();
                report.findings.push(Finding { message: message.name.clone(), rule: 0, what });
            }
        }
        let invalid = report.findings.len() - before;
        if valid + invalid != batch.len() {
            return Err(format!("xmllint judged {valid} of {} messages: {said}", batch.len()).into());
        }
    }
    Ok(())
}

/// The envelope as sent, with base64 where an Include stands.
fn resolved(message: &Message) -> Result<Vec<u8>, Error> {
    if !message.bytes.windows(XOP.len()).any(|w| w == XOP.as_bytes()) {
        return Ok(message.bytes.clone());
    }
    let mut root = Element::parse(&message.bytes, &Limits::ANSWER).map_err(|e| e.to_string())?;
    root = inline(root, message)?;
    Ok(root.to_xml().into_bytes())
}

fn inline(element: Element, message: &Message) -> Result<Element, Error> {
    let mut out = Element::new(element.ns(), element.local());
    for attribute in element.attributes() {
        out.set_attr(attribute.ns(), attribute.local(), attribute.value());
    }
    for child in element.children() {
        out = match child {
            Node::Element(include) if include.is(XOP, "Include") => {
                let id = ncp_soap::included(&element).map_err(|e| e.to_string())?.unwrap_or_default();
                let bytes = message.part(&id).map(|part| part.bytes).unwrap_or_default();
                out.text(openssl::base64::encode_block(&bytes))
            }
            Node::Element(child) => out.with(inline(child.clone(), message)?),
            Node::Text(text) | Node::Raw(text) => out.text(text.as_str()),
            Node::Gap => out,
        };
    }
    Ok(out)
}
