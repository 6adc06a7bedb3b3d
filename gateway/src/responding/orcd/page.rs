//! A report on pages: PDF/A-2a and PDF/UA-1, A4, with its fonts inside and a tag for every line (EN 301 549 10).
//!
//! Each page says whose report it is and which page of how many, since pages get printed and separated.

use std::num::NonZeroU16;

use krilla::configure::{Accessibility, Archival, ConfigurationBuilder};
use krilla::destination::XyzDestination;
use krilla::geom::Point;
use krilla::metadata::{DateTime, Metadata};
use krilla::outline::{Outline, OutlineNode};
use krilla::page::PageSettings;
use krilla::surface::Surface;
use krilla::tagging::{Artifact, ArtifactType, ContentTag, Identifier, SpanTag, Tag, TagGroup, TagTree};
use krilla::text::TextDirection;
use krilla::{Document, SerializeSettings};
use ncp_ihe::DocumentEntry;
use ncp_ihe::orcd::{Line, Report, ReportError, Run};

use super::fonts::{Fonts, Row, SIZE};

/// A4 in points.
const WIDTH: f32 = 595.0;
const HEIGHT: f32 = 842.0;
const MARGIN: f32 = 56.0;
const LEADING: f32 = 14.0;
/// One level of a list.
const INDENT: f32 = 16.0;
/// Between the lines that head and foot of a page take and its text.
const GAP: f32 = 10.0;
/// Pages of one report.
const MOST_PAGES: usize = 500;

/// A row of a page and the line that it is a piece of.
struct Placed {
    line: usize,
    row: Row,
}

/// Lays the report out: a head that says whose it is, by whom and kept where, then its text.
///
/// # Errors
/// It does not fit, or the writer refuses.
pub fn pdf(entry: &DocumentEntry, report: &Report) -> Result<Vec<u8>, ReportError> {
    let fonts = Fonts::load().ok_or(ReportError::Form)?;
    let title = entry.title.clone().filter(|t| !t.trim().is_empty()).unwrap_or_else(|| "Report".into());
    let mut lines = head(entry, report, &title);
    lines.extend(report.lines.iter().cloned());
    if lines.iter().flat_map(|line| &line.runs).any(|run| fonts.lacks(&run.text)) {
        lines.push(Line::plain("Characters that this document's font does not have are shown as \"?\"."));
    }
    let pages = laid_out(&fonts, &lines);
    if pages.len() > MOST_PAGES {
        return Err(ReportError::TooLong);
    }
    written(entry, &fonts, &title, &whose(entry, report), &lines, &pages).ok_or(ReportError::Form)
}

/// The rows of each page.
fn laid_out(fonts: &Fonts, lines: &[Line]) -> Vec<Vec<Placed>> {
    let on_page = ((HEIGHT - 2.0 * MARGIN - 2.0 * (LEADING + GAP)) / LEADING) as usize;
    let mut pages: Vec<Vec<Placed>> = vec![Vec::new()];
    for (number, line) in lines.iter().enumerate() {
        let indent = f32::from(line.indent) * INDENT;
        let mut rows = fonts.wrap(&line.runs, WIDTH - 2.0 * MARGIN - indent.min(160.0));
        let blank_before = line.heading > 0 && pages.last().is_some_and(|page| !page.is_empty());
        let used = pages.last().map_or(0, Vec::len);
        // A heading does not stand alone at the foot of a page.
        if line.heading > 0 && used + rows.len() + 3 > on_page {
            pages.push(Vec::new());
        } else if blank_before {
            rows.insert(0, Row::default());
        }
        for row in rows {
            if pages.last().is_some_and(|page| page.len() >= on_page) {
                pages.push(Vec::new());
            }
            if let Some(page) = pages.last_mut() {
                page.push(Placed { line: number, row });
            }
        }
    }
    pages
}

fn written(
    entry: &DocumentEntry,
    fonts: &Fonts,
    title: &str,
    whose: &str,
    lines: &[Line],
    pages: &[Vec<Placed>],
) -> Option<Vec<u8>> {
    let configuration = ConfigurationBuilder::new()
        .with_archival_validator(Archival::A2_A)
        .with_accessibility_validator(Accessibility::UA1)
        .finish()
        .ok()?;
    let mut document = Document::new_with(SerializeSettings { configuration, ..SerializeSettings::default() });
    // Which pieces on the pages each line of the report is.
    let mut pieces: Vec<Vec<Identifier>> = lines.iter().map(|_| Vec::new()).collect();
    let mut outline = Outline::new();
    for (number, rows) in pages.iter().enumerate() {
        let mut page = document.start_page_with(PageSettings::from_wh(WIDTH, HEIGHT)?);
        let mut surface = page.surface();
        let top = MARGIN + LEADING;
        repeated(&mut surface, ArtifactType::Header, MARGIN, fonts, whose);
        let foot = format!("Page {} of {}", number + 1, pages.len());
        repeated(&mut surface, ArtifactType::Footer, HEIGHT - MARGIN, fonts, &foot);
        for (at, placed) in rows.iter().enumerate().filter(|(_, placed)| !placed.row.is_empty()) {
            let line = &lines[placed.line];
            let x = MARGIN + (f32::from(line.indent) * INDENT).min(160.0);
            let y = top + GAP + (at + 1) as f32 * LEADING;
            if line.heading > 0 && pieces[placed.line].is_empty() {
                let to = XyzDestination::new(number, Point::from_xy(0.0, y - LEADING));
                outline.push_child(OutlineNode::new(fonts.known(&line.text()), to));
            }
            pieces[placed.line].push(surface.start_tagged(ContentTag::Span(SpanTag::empty())));
            draw(&mut surface, fonts, &placed.row, x, y);
            surface.end_tagged();
        }
        surface.finish();
        page.finish();
    }
    document.set_outline(outline);
    document.set_tag_tree(tree(entry, fonts, lines, pieces));
    let mut metadata = Metadata::new()
        .title(fonts.known(title))
        .language(entry.language.clone())
        .document_id(entry.unique_id.clone())
        .producer("ncp-gateway".into());
    if let Some(at) = entry.creation_time.as_ref().and_then(ncp_ihe::Dtm::earliest) {
        metadata = metadata.creation_date(date(at)?);
    }
    document.set_metadata(metadata);
    document.finish().ok()
}

/// Head or foot of a page: no part of the report's text.
fn repeated(surface: &mut Surface<'_>, kind: ArtifactType, y: f32, fonts: &Fonts, text: &str) {
    surface.start_tagged(ContentTag::Artifact(Artifact::with_kind(kind)));
    let run = [Run { text: text.to_owned(), ..Run::default() }];
    if let Some(row) = fonts.wrap(&run, WIDTH - 2.0 * MARGIN).first() {
        draw(surface, fonts, row, MARGIN, y);
    }
    surface.end_tagged();
}

fn draw(surface: &mut Surface<'_>, fonts: &Fonts, row: &Row, x: f32, y: f32) {
    let mut x = x;
    for run in row.runs() {
        let font = fonts.of(run);
        surface.draw_text(Point::from_xy(x, y), font.font(), SIZE, &run.text, false, TextDirection::Auto);
        x += font.width(&run.text);
    }
}

/// Headings and paragraphs, in reading order.
fn tree(entry: &DocumentEntry, fonts: &Fonts, lines: &[Line], pieces: Vec<Vec<Identifier>>) -> TagTree {
    let mut tree = TagTree::new().with_lang(Some(entry.language.clone()));
    for (line, pieces) in lines.iter().zip(pieces).filter(|(_, pieces)| !pieces.is_empty()) {
        let mut group = match NonZeroU16::new(u16::from(line.heading)) {
            Some(level) => TagGroup::new(Tag::Hn(level, Some(fonts.known(&line.text())))),
            None => TagGroup::new(Tag::P),
        };
        pieces.into_iter().for_each(|piece| group.push(piece));
        tree.push(group);
    }
    tree
}

/// Name, identifier and birth date of the patient.
fn whose(entry: &DocumentEntry, report: &Report) -> String {
    let person = &report.person;
    let name: Vec<&str> = person.given.iter().chain(&person.family).map(String::as_str).collect();
    let mut parts = vec![name.join(" "), entry.patient_id.extension.clone()];
    parts.extend(person.birth_date.as_deref().map(|date| format!("born {}", dashed(date))));
    parts.retain(|part| !part.is_empty());
    parts.join(" \u{B7} ")
}

/// Title, patient, author, custodian and time; what is not known is left out.
fn head(entry: &DocumentEntry, report: &Report, title: &str) -> Vec<Line> {
    let labelled = |label: &str, text: String| {
        let mut line = Line::plain(text);
        line.runs.insert(0, Run { text: format!("{label}: "), bold: true, italic: false });
        line
    };
    let mut out = vec![Line::heading(1, title), labelled("Patient", whose(entry, report))];
    let registered = entry.authors.first().map(|author| {
        let mut named = author.person.as_deref().unwrap_or_default().split('^').skip(1);
        let (family, given) = (named.next().unwrap_or_default(), named.next().unwrap_or_default());
        let organisation = author.institutions.first().and_then(|i| i.split('^').next()).unwrap_or_default();
        let person = format!("{given} {family}").trim().to_owned();
        [person, organisation.to_owned()].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", ")
    });
    let authors = match report.authors.is_empty() {
        true => registered.into_iter().filter(|author| !author.is_empty()).collect(),
        false => report.authors.clone(),
    };
    out.extend(authors.into_iter().map(|author| labelled("Author", author)));
    out.extend(report.custodian.clone().map(|custodian| labelled("Kept by", custodian)));
    let at = entry.creation_time.as_ref().and_then(ncp_ihe::Dtm::earliest);
    out.extend(at.map(|at| labelled("Written", at.strftime("%Y-%m-%d %H:%M UTC").to_string())));
    out
}

/// `YYYYMMDD…` as `YYYY-MM-DD`; anything else as it is.
fn dashed(date: &str) -> String {
    match (date.get(..4), date.get(4..6), date.get(6..8)) {
        (Some(year), Some(month), Some(day)) => format!("{year}-{month}-{day}"),
        _ => date.to_owned(),
    }
}

fn date(at: jiff::Timestamp) -> Option<DateTime> {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    let small = |n: i8| u8::try_from(n).ok();
    let day = DateTime::new(u16::try_from(at.year()).ok()?).month(small(at.month())?).day(small(at.day())?);
    let time = day.hour(small(at.hour())?).minute(small(at.minute())?).second(small(at.second())?);
    Some(time.utc_offset_hour(0).utc_offset_minute(0))
}
