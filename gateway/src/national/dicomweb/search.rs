//! QIDO-RS, and what can be had of a search that the archive cannot answer as a whole.
//!
//! Some archives fail a search as long as one odd study is among its matches. Then the rest is had piece by piece: without
//! the attributes that an archive need not return, page by page down to single matches, by ranges of dates, by modality.
//! What is in no piece is counted, so that it can be said to be missing.

use std::collections::BTreeSet;

use http::{StatusCode, header};
use jiff::ToSpan;
use jiff::civil::Date;
use tokio::time::Instant;

use super::archive::{Archive, RESULTS};
use super::http::Failure;
use super::json::{Found, Text};

/// Requests of one search in pieces.
const PIECES: usize = 200;
/// Matches in a row that fail alone, after which pages are given up.
const IN_A_ROW: usize = 8;
/// The first pages of one match, which tell whether pages help.
const PROBES: usize = 3;
/// The study dates that are looked for in pieces, wrong ones among them.
const DAYS: (Date, Date) = (jiff::civil::date(1900, 1, 1), jiff::civil::date(2100, 1, 1));
/// Modalities that are asked for one by one (PS3.3 C.7.3.1.1.1).
const MODALITIES: [&str; 14] = ["CT", "MR", "US", "CR", "DX", "MG", "PT", "NM", "XA", "RF", "OT", "SR", "ECG", "XC"];

/// The matches of a search.
#[derive(Debug, Default)]
pub(super) struct Matches {
    pub(super) found: Vec<Found>,
    /// Matches that the archive has, as far as can be told, and cannot list.
    pub(super) unlisted: usize,
}

impl Archive {
    /// All matches of a search, page by page. `key` tells them apart, `at_least` is how many the archive itself counts.
    ///
    /// An archive that ignores `offset` or `limit` sends what is known already: that ends the search.
    pub(super) async fn search(
        &self,
        search: &Search<'_>,
        key: fn(&Found) -> &Text,
        at_least: usize,
    ) -> Result<Vec<Found>, Failure> {
        let mut out: Vec<Found> = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let (page, more) = self.page_of(search, self.page, out.len()).await?;
            let (length, before) = (page.len(), out.len());
            out.extend(page.into_iter().filter(|f| seen.insert(key(f).clone())));
            if out.len() > RESULTS {
                return Err(Failure::TooMany);
            }
            let full = length >= self.page || more || out.len() < at_least;
            if !full || out.len() == before {
                return Ok(out);
            }
        }
    }

    /// One page; whether the archive says that there is more.
    async fn page_of(&self, search: &Search<'_>, limit: usize, offset: usize) -> Result<(Vec<Found>, bool), Failure> {
        let path = search.path(limit, offset);
        let attempt = || async {
            let response = match self.http.get(&path, "application/dicom+json", search.about).await {
                // PS3.18 8.3.4: some archives say so that nothing matches.
                Err(Failure::Status(404 | 410)) if search.absent_is_none => return Ok((Vec::new(), false)),
                other => other?,
            };
            if response.status() == StatusCode::NO_CONTENT {
                return Ok((Vec::new(), false));
            }
            // PS3.18 8.3.4.4: the warning of results that are left.
            let warns = |value: &http::HeaderValue| value.as_bytes().starts_with(b"299");
            let more = response.status() == StatusCode::PARTIAL_CONTENT
                || response.headers().get_all(header::WARNING).iter().any(warns);
            Ok((self.objects(response).await?, more))
        };
        if search.once { attempt().await } else { self.http.again(search.until, attempt).await }
    }

    /// The studies of a search, as a whole or in pieces.
    ///
    /// # Errors
    /// When nothing can be had.
    pub(super) async fn studies(&self, search: &Search<'_>) -> Result<Matches, Failure> {
        let failure = match self.search(search, |f| &f.study, 0).await {
            Ok(found) => return Ok(Matches { found, unlisted: 0 }),
            Err(failure) if failure.is_an_answer() => failure,
            Err(failure) => return Err(failure),
        };
        let (connector, host) = (self.http.way().connector(), self.http.host());
        tracing::warn!(connector, host, reason = %failure, "archive cannot list studies; it is asked in pieces");
        if let Ok(found) = self.search(&search.bare(), |f| &f.study, 0).await {
            return Ok(Matches { found, unlisted: 0 });
        }
        let search = &Search { once: true, ..search.clone() };
        let mut pieces = Pieces { archive: self, search, left: PIECES, seen: BTreeSet::new(), out: Matches::default() };
        if !pieces.by_page().await {
            pieces.by_date().await;
        }
        let out = pieces.out;
        if out.found.is_empty() { Err(failure) } else { Ok(Matches { unlisted: out.unlisted.max(1), ..out }) }
    }
}

/// One search resource with what is asked of it.
#[derive(Debug, Clone)]
pub(super) struct Search<'a> {
    /// Resource and keys, without page and fields.
    pub(super) resource: String,
    /// Attributes that QIDO need not return unless asked; empty: none.
    pub(super) fields: &'a str,
    /// What it is about, for the circuit.
    pub(super) about: &'a str,
    /// No such resource means no match.
    pub(super) absent_is_none: bool,
    /// When the answer is no longer of use.
    pub(super) until: Instant,
    /// What fails is not asked for again.
    pub(super) once: bool,
}

impl Search<'_> {
    /// The same without attributes that need not be returned.
    fn bare(&self) -> Self {
        Self { fields: "", ..self.clone() }
    }

    fn and(&self, key: &str) -> Self {
        Self { resource: format!("{}&{key}", self.resource), ..self.clone() }
    }

    fn path(&self, limit: usize, offset: usize) -> String {
        let mut out = self.resource.clone();
        let mut add = |text: String| {
            out.push(if out.contains('?') { '&' } else { '?' });
            out.push_str(&text);
        };
        if !self.fields.is_empty() {
            add(format!("includefield={}", self.fields));
        }
        add(format!("limit={limit}&offset={offset}"));
        out
    }
}

/// A search in pieces.
struct Pieces<'a> {
    archive: &'a Archive,
    search: &'a Search<'a>,
    /// Requests that may still be made.
    left: usize,
    seen: BTreeSet<Text>,
    out: Matches,
}

impl Pieces<'_> {
    /// One piece: how many matches it has and whether there are more; `None` when it fails too.
    async fn piece(&mut self, search: &Search<'_>, limit: usize, offset: usize) -> Option<(usize, bool)> {
        self.left = self.left.checked_sub(1)?;
        let (found, more) = self.archive.page_of(search, limit, offset).await.ok()?;
        let count = found.len();
        for one in found {
            if self.seen.insert(one.study.clone()) {
                self.out.found.push(one);
            }
        }
        Some((count, more))
    }

    /// Pages that are halved until they do not fail. The answer is whether pages help at all.
    async fn by_page(&mut self) -> bool {
        let mut any = false;
        for offset in 0..PROBES {
            any |= self.piece(self.search, 1, offset).await.is_some();
        }
        if !any {
            return false;
        }
        let (mut open, mut in_a_row) = (vec![(0, self.archive.page)], 0);
        while let Some((offset, limit)) = open.pop() {
            let mut had = self.piece(self.search, limit, offset).await;
            if had.is_none() && limit == 1 {
                had = self.piece(&self.search.bare(), 1, offset).await;
            }
            match had {
                // The archive takes smaller pages than it is asked for.
                Some((count, true)) if 0 < count && count < limit => open.push((offset + count, limit - count)),
                // The list ends here.
                Some((count, _)) if count < limit => return true,
                Some(_) => {
                    in_a_row = 0;
                    if open.is_empty() {
                        open.push((offset + limit, self.archive.page));
                    }
                }
                None if limit == 1 => {
                    self.out.unlisted += 1;
                    in_a_row += 1;
                    if in_a_row == IN_A_ROW || self.left == 0 {
                        return true;
                    }
                    if open.is_empty() {
                        open.push((offset + 1, self.archive.page));
                    }
                }
                None => {
                    let half = limit / 2;
                    open.push((offset + half, limit - half));
                    open.push((offset, half));
                }
            }
        }
        true
    }

    /// Ranges of study dates that are halved until they do not fail; a day that fails is asked by modality.
    async fn by_date(&mut self) {
        let mut open = vec![DAYS];
        while let Some((from, to)) = open.pop() {
            let range = self.search.and(&format!("StudyDate={}-{}", from.strftime("%Y%m%d"), to.strftime("%Y%m%d")));
            let days = from.until(to).map_or(0, |span| span.get_days());
            match self.piece(&range, self.archive.page, 0).await {
                Some((count, more)) if days == 0 || (count < self.archive.page && !more) => continue,
                None if self.left == 0 => return,
                None if days == 0 => {
                    self.by_modality(&range).await;
                    continue;
                }
                _ => {}
            }
            let middle = from.saturating_add((days / 2).days());
            open.push((from, middle));
            open.push((middle.saturating_add(1.day()), to));
        }
    }

    async fn by_modality(&mut self, day: &Search<'_>) {
        self.out.unlisted += 1;
        for modality in MODALITIES {
            self.piece(&day.and(&format!("ModalitiesInStudy={modality}")), self.archive.page, 0).await;
        }
    }
}
