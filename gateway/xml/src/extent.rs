//! Where an element stands in the bytes of its document.

use quick_xml::Reader;
use quick_xml::events::Event;

/// An element as written, and what of its surroundings bears on its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent<'a> {
    /// Start tags of its ancestors, outermost first: namespaces and `xml:` attributes come from there.
    pub around: Vec<&'a str>,
    /// From its start tag to its end tag.
    pub element: &'a str,
}

/// The element at a path of child-element indexes from the root, of a document that [`crate::scan`] or
/// [`crate::Element::parse`] took.
pub fn extent<'a>(bytes: &'a [u8], path: &[usize]) -> Option<Extent<'a>> {
    let text = std::str::from_utf8(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)).ok()?;
    let mut reader = Reader::from_str(text);
    let position = |reader: &Reader<&[u8]>| usize::try_from(reader.buffer_position()).ok();
    let mut around = Vec::new();
    // Child elements seen so far of each open element.
    let mut seen: Vec<usize> = Vec::new();
    let mut begun = None;
    loop {
        let before = position(&reader)?;
        let event = reader.read_event().ok()?;
        let empty = matches!(event, Event::Empty(_));
        match event {
            Event::Start(_) | Event::Empty(_) => {
                let depth = seen.len();
                let index = seen.last_mut().map(|count| std::mem::replace(count, *count + 1));
                // On the way: every open element is an ancestor, and so is this one or it is the element itself.
                let on_path = around.len() == depth && (depth == 0 || path.get(depth - 1).copied() == index);
                let tag = text.get(before..position(&reader)?)?;
                if on_path && depth == path.len() && begun.is_none() {
                    if empty {
                        return Some(Extent { around, element: tag });
                    }
                    begun = Some(before);
                } else if on_path && begun.is_none() && !empty {
                    around.push(tag);
                }
                if !empty {
                    seen.push(0);
                }
            }
            Event::End(_) => {
                seen.pop()?;
                match begun {
                    Some(from) if seen.len() == path.len() => {
                        return Some(Extent { around, element: text.get(from..position(&reader)?)? });
                    }
                    // An ancestor ends without it.
                    None if seen.len() < around.len() => return None,
                    _ => {}
                }
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\u{feff}<?xml version=\"1.0\"?><!--<a>--><a x='>'>t<b/><b xmlns:p='u'><c/><!--<c/>--><p:c>1<d>2</d></p:c></b><e></e></a>";

    #[test]
    fn an_element_is_found_as_written() {
        let at = |path: &[usize]| extent(DOCUMENT.as_bytes(), path);
        assert_eq!(at(&[0]), Some(Extent { around: vec!["<a x='>'>"], element: "<b/>" }));
        let inner = at(&[1, 1]).expect("found");
        assert_eq!(inner.around, ["<a x='>'>", "<b xmlns:p='u'>"]);
        assert_eq!(inner.element, "<p:c>1<d>2</d></p:c>");
        assert_eq!(at(&[1, 1, 0]).expect("found").element, "<d>2</d>");
        assert_eq!(at(&[2]).expect("found").element, "<e></e>");
        assert!(at(&[]).expect("found").element.ends_with("</a>"));
        for absent in [&[3][..], &[0, 0], &[1, 2], &[1, 0, 0], &[2, 0], &[1, 1, 1]] {
            assert_eq!(at(absent), None, "{absent:?}");
        }
    }

    #[test]
    fn broken_documents_have_no_elements() {
        for broken in ["", "<a>", "<a><b>", "<a></b>", "\u{feff}", "<a/><b/>"] {
            assert_eq!(extent(broken.as_bytes(), &[0]), None, "{broken}");
        }
        assert_eq!(extent(b"\xff<a/>", &[]), None);
    }
}
