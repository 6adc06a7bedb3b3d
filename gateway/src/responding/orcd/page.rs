//! A report on pages: PDF/A-2b, A4, with its font inside.

use krilla::configure::{Archival, ConfigurationBuilder};
use krilla::geom::Point;
use krilla::metadata::{DateTime, Metadata};
use krilla::page::PageSettings;
use krilla::text::{Font, TextDirection};
use krilla::{Document, SerializeSettings};
use ncp_ihe::DocumentEntry;
use ncp_ihe::orcd::{Line, Report};
use ttf_parser::Face;

/// A4 in points.
const WIDTH: f32 = 595.0;
const HEIGHT: f32 = 842.0;
const MARGIN: f32 = 56.0;
const SIZE: f32 = 10.0;
const LEADING: f32 = 14.0;
/// Pages of one report.
const MOST_PAGES: usize = 500;

/// A font and the widths of its characters.
struct Type {
    font: Font,
    face: Face<'static>,
}

impl Type {
    fn load(bytes: &'static [u8]) -> Option<Self> {
        Some(Self { font: Font::new(bytes.to_vec().into(), 0)?, face: Face::parse(bytes, 0).ok()? })
    }

    /// What the font has no glyph for is shown as a question mark: PDF/A allows no missing glyph.
    fn known(&self, text: &str) -> String {
        let known = |c: char| if self.face.glyph_index(c).is_some_and(|g| g.0 != 0) { c } else { '?' };
        text.chars().map(|c| if c.is_whitespace() || c.is_control() { ' ' } else { known(c) }).collect()
    }

    fn width(&self, text: &str) -> f32 {
        let advance = |c| self.face.glyph_index(c).and_then(|g| self.face.glyph_hor_advance(g)).unwrap_or(0);
        let units: u32 = text.chars().map(|c| u32::from(advance(c))).sum();
        units as f32 * SIZE / f32::from(self.face.units_per_em())
    }

    /// Breaks between words, and inside a word that is longer than a line.
    fn wrap(&self, text: &str) -> Vec<String> {
        let most = WIDTH - 2.0 * MARGIN;
        let mut lines = vec![String::new()];
        for word in self.known(text).split(' ').filter(|w| !w.is_empty()) {
            let line = lines.last().map(String::as_str).unwrap_or_default();
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if self.width(&longer) <= most {
                lines.pop();
                lines.push(longer);
                continue;
            }
            if line.is_empty() {
                lines.pop();
            }
            let (mut piece, mut width) = (String::new(), 0.0);
            for c in word.chars() {
                let more = self.width(c.encode_utf8(&mut [0; 4]));
                if width + more > most {
                    lines.push(std::mem::take(&mut piece));
                    width = 0.0;
                }
                piece.push(c);
                width += more;
            }
            lines.push(piece);
        }
        lines
    }
}

/// Lays the report out: a head that says whose it is, then its text. `None` when it does not fit or the writer refuses.
pub(super) fn pdf(entry: &DocumentEntry, report: &Report) -> Option<Vec<u8>> {
    let (plain, bold) = (Type::load(dejavu::sans::regular())?, Type::load(dejavu::sans::bold())?);
    let title = entry.title.clone().unwrap_or_default();
    let mut lines: Vec<(bool, String)> = Vec::new();
    for Line { heading, text } in head(entry, report, &title).into_iter().chain(report.lines.iter().cloned()) {
        let set = if heading { &bold } else { &plain };
        if heading && !lines.is_empty() {
            lines.push((false, String::new()));
        }
        lines.extend(set.wrap(&text).into_iter().map(|line| (heading, line)));
    }
    let on_page = ((HEIGHT - 2.0 * MARGIN) / LEADING) as usize;
    if lines.len() > MOST_PAGES * on_page {
        return None;
    }
    let configuration = ConfigurationBuilder::new().with_archival_validator(Archival::A2_B).finish().ok()?;
    let mut document = Document::new_with(SerializeSettings { configuration, ..SerializeSettings::default() });
    for page_lines in lines.chunks(on_page) {
        let mut page = document.start_page_with(PageSettings::from_wh(WIDTH, HEIGHT)?);
        let mut surface = page.surface();
        for (row, (heading, text)) in page_lines.iter().enumerate().filter(|(_, (_, text))| !text.is_empty()) {
            let at = Point::from_xy(MARGIN, MARGIN + (row + 1) as f32 * LEADING);
            let font = if *heading { bold.font.clone() } else { plain.font.clone() };
            surface.draw_text(at, font, SIZE, text, false, TextDirection::Auto);
        }
        surface.finish();
        page.finish();
    }
    let mut metadata = Metadata::new()
        .title(bold.known(&title))
        .language(entry.language.clone())
        .document_id(entry.unique_id.clone())
        .producer("ncp-gateway".into());
    if let Some(at) = entry.creation_time.as_ref().and_then(ncp_ihe::Dtm::earliest) {
        metadata = metadata.creation_date(date(at)?);
    }
    document.set_metadata(metadata);
    document.finish().ok()
}

/// Title, patient and time; what the report does not say is left out.
fn head(entry: &DocumentEntry, report: &Report, title: &str) -> Vec<Line> {
    let line = |heading, text: String| Line { heading, text };
    let person = &report.person;
    let names = person.given.iter().chain(&person.family).map(String::as_str);
    let mut who: Vec<&str> = names.collect();
    who.push(&entry.patient_id.extension);
    who.extend(person.birth_date.as_deref());
    let mut out = vec![line(true, title.to_owned()), line(false, who.join(" "))];
    let at = entry.creation_time.as_ref().and_then(ncp_ihe::Dtm::earliest);
    out.extend(at.map(|at| line(false, at.strftime("%Y-%m-%d %H:%M UTC").to_string())));
    out
}

fn date(at: jiff::Timestamp) -> Option<DateTime> {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    let small = |n: i8| u8::try_from(n).ok();
    let day = DateTime::new(u16::try_from(at.year()).ok()?).month(small(at.month())?).day(small(at.day())?);
    let time = day.hour(small(at.hour())?).minute(small(at.minute())?).second(small(at.second())?);
    Some(time.utc_offset_hour(0).utc_offset_minute(0))
}
