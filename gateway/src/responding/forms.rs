//! The forms in which a released document is listed: its original in European codes, and beside it what is made of it when it is
//! retrieved (a pivot, an OrCD view). Forms are made while an answer is chosen and while it is written, and never all kept: a
//! list of documents is held once, whatever forms they have.

use std::collections::BTreeSet;

use ncp_ihe::{DocumentEntry, RegistryObjects, StoredQuery};

use super::pivot::{self, Form};
use super::{orcd, widen::Widened};
use crate::translate::Pivot;

/// Prefixes of the formatCodes that the portals of MyHealth@EU show.
const PORTAL_FORMATS: [&str; 4] = ["urn:eHDSI:", "urn:epSOS:", "urn:epsos:", "urn:ihe:iti:xds-sd:pdf:"];

/// Which forms there are in one answer.
pub(super) struct Forms {
    /// European codes, where the terminology service answered.
    pub codes: Option<Pivot>,
    /// A transcoded form beside each document that has one.
    pub pivots: bool,
    /// OrCD views.
    pub views: bool,
    /// Only views, and of documents without a view those in a format that a portal shows: a manifest or a report beside its
    /// view would be a line that cannot be opened.
    pub portal: bool,
}

impl Forms {
    /// Shows an entry and its forms in national codes.
    fn national(&self, entry: &DocumentEntry, see: &mut dyn FnMut(&DocumentEntry)) {
        see(entry);
        if self.pivots && pivot::has_pivot(entry) {
            see(&pivot::made_of(entry, Form::Pivot));
        }
    }

    /// An entry and its forms as they are listed.
    pub(super) fn european(&self, entry: &DocumentEntry) -> Vec<DocumentEntry> {
        let original = self.codes.as_ref().map_or_else(|| entry.clone(), |codes| codes.entry(entry));
        let pivot = (self.pivots && pivot::has_pivot(&original)).then(|| pivot::made_of(&original, Form::Pivot));
        let view = self.views.then(|| orcd::view(&original)).flatten();
        let shown = |entry: &DocumentEntry| {
            let code = &entry.format_code.code;
            !self.portal || (view.is_none() && PORTAL_FORMATS.iter().any(|prefix| code.starts_with(prefix)))
        };
        let mut out: Vec<DocumentEntry> = std::iter::once(original).chain(pivot).filter(shown).collect();
        out.extend(view);
        if self.views {
            out.iter_mut().for_each(give_a_title);
        }
        out
    }

    /// entryUUIDs of what a query asks for. A filter holds when the national or the European form of an entry fits it, or may
    /// fit it by a code that stands for an asked one; all forms have the same entryUUIDs.
    pub(super) fn chosen(
        &self,
        query: &StoredQuery,
        widened: Option<&Widened>,
        national: &RegistryObjects,
    ) -> BTreeSet<String> {
        let as_it_is = |entry: &DocumentEntry, see: &mut dyn FnMut(&DocumentEntry)| self.national(entry, see);
        let as_listed = |entry: &DocumentEntry, see: &mut dyn FnMut(&DocumentEntry)| {
            self.european(entry).iter().for_each(see);
        };
        let mut chosen = query.select_forms(national, &as_it_is);
        chosen.extend(query.select_forms(national, &as_listed));
        if let Some(widened) = widened {
            chosen.extend(widened.select(national, &as_it_is));
            chosen.extend(widened.select(national, &as_listed));
        }
        chosen
    }

    /// What of the entries is listed.
    pub(super) fn listed(&self, entries: &[DocumentEntry], chosen: &BTreeSet<String>) -> Listed {
        let mut out = Listed::default();
        for entry in entries {
            let forms = self.european(entry).into_iter().map(|form| form.entry_uuid);
            let before = out.uuids.len();
            out.uuids.extend(forms.filter(|uuid| chosen.contains(uuid)));
            out.documents += usize::from(out.uuids.len() > before);
        }
        out
    }
}

/// What of entries is listed.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// entryUUIDs of their forms.
    pub uuids: Vec<String>,
    /// Documents that have a form among them: what is made of a document counts with it.
    pub documents: usize,
}

/// OpenNCP's client reads the title of every entry. One without has the name of its type.
fn give_a_title(entry: &mut DocumentEntry) {
    let name = || entry.type_code.display.clone().unwrap_or_else(|| entry.type_code.code.clone());
    entry.title = Some(entry.title.take().unwrap_or_else(name));
}
