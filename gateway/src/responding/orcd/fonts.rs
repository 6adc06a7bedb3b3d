//! The fonts of a report and how its lines are broken into rows.

use krilla::text::Font;
use ncp_ihe::orcd::Run;
use ttf_parser::Face;

/// Points.
pub(super) const SIZE: f32 = 10.0;

/// A font and the widths of its characters.
pub(super) struct Type {
    font: Font,
    face: Face<'static>,
}

impl Type {
    fn load(bytes: &'static [u8]) -> Option<Self> {
        Some(Self { font: Font::new(bytes.to_vec().into(), 0)?, face: Face::parse(bytes, 0).ok()? })
    }

    /// The font for drawing.
    pub(super) fn font(&self) -> Font {
        self.font.clone()
    }

    /// Width in points.
    pub(super) fn width(&self, text: &str) -> f32 {
        let advance = |c| self.face.glyph_index(c).and_then(|g| self.face.glyph_hor_advance(g)).unwrap_or(0);
        let units: u32 = text.chars().map(|c| u32::from(advance(c))).sum();
        units as f32 * SIZE / f32::from(self.face.units_per_em())
    }

    fn has(&self, c: char) -> bool {
        self.face.glyph_index(c).is_some_and(|glyph| glyph.0 != 0)
    }

    fn shown(&self, c: char) -> char {
        match c {
            c if c.is_whitespace() || c.is_control() => ' ',
            c if self.has(c) => c,
            _ => '?',
        }
    }
}

/// One row of a page.
#[derive(Default)]
pub(super) struct Row(Vec<Run>);

impl Row {
    /// Its pieces, from left to right.
    pub(super) fn runs(&self) -> &[Run] {
        &self.0
    }

    /// Whether it is a blank row.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|run| run.text.trim().is_empty())
    }

    fn push(&mut self, c: char, like: &Run) {
        match self.0.last_mut() {
            Some(run) if (run.bold, run.italic) == (like.bold, like.italic) => run.text.push(c),
            _ => self.0.push(Run { text: c.to_string(), ..*like }),
        }
    }
}

/// Regular, bold, slanted, and both.
pub(super) struct Fonts([Type; 4]);

impl Fonts {
    /// Loads them from the program.
    pub(super) fn load() -> Option<Self> {
        let [regular, bold, slanted, both] =
            [dejavu::sans::regular(), dejavu::sans::bold(), dejavu::sans::oblique(), dejavu::sans::bold_oblique()]
                .map(Type::load);
        Some(Self([regular?, bold?, slanted?, both?]))
    }

    /// The font of a run.
    pub(super) fn of(&self, run: &Run) -> &Type {
        &self.0[usize::from(run.bold) + 2 * usize::from(run.italic)]
    }

    /// Whether a text has characters that the fonts have not.
    pub(super) fn lacks(&self, text: &str) -> bool {
        text.chars().any(|c| !c.is_whitespace() && !c.is_control() && !self.0[0].has(c))
    }

    /// A text in the characters that the fonts have: PDF/A allows no missing glyph.
    pub(super) fn known(&self, text: &str) -> String {
        text.chars().map(|c| self.0[0].shown(c)).collect()
    }

    /// Breaks a line into rows, between words and inside a word that is longer than a row.
    pub(super) fn wrap(&self, runs: &[Run], most: f32) -> Vec<Row> {
        let mut rows = vec![Row::default()];
        // The word at the end of the last row, and the width of the row up to its end.
        let (mut word, mut word_width, mut width) = (Vec::<(char, &Run)>::new(), 0.0f32, 0.0f32);
        for run in runs {
            let font = self.of(run);
            for c in run.text.chars().map(|c| font.shown(c)) {
                let advance = font.width(c.encode_utf8(&mut [0; 4]));
                if c == ' ' {
                    place(&mut rows, &mut word);
                    word_width = 0.0;
                    // A blank at the beginning or beyond the end of a row is not drawn.
                    if width > 0.0 && width + advance <= most {
                        if let Some(row) = rows.last_mut() {
                            row.push(c, run);
                        }
                        width += advance;
                    }
                    continue;
                }
                // The word that moves to the next row may be too long for it as well.
                while width > 0.0 && width + advance > most {
                    let whole_row = word_width >= width;
                    if whole_row {
                        place(&mut rows, &mut word);
                        word_width = 0.0;
                    }
                    rows.push(Row::default());
                    width = word_width;
                }
                word.push((c, run));
                word_width += advance;
                width += advance;
            }
        }
        place(&mut rows, &mut word);
        rows
    }
}

fn place(rows: &mut [Row], word: &mut Vec<(char, &Run)>) {
    let Some(row) = rows.last_mut() else { return };
    word.drain(..).for_each(|(c, run)| row.push(c, run));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Wrapping keeps every character but blanks, in order, and no row is too wide.
        #[test]
        fn nothing_is_lost_between_rows(words in proptest::collection::vec("[a-zæø]{1,60}", 1..30), bold: bool) {
            let fonts = Fonts::load().expect("fonts");
            let text = words.join(" ");
            let (first, second) = text.split_at(text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at));
            let runs = [
                Run { text: first.into(), ..Run::default() },
                Run { text: second.into(), bold, italic: false },
            ];
            let rows = fonts.wrap(&runs, 150.0);
            let kept: String = rows.iter().flat_map(Row::runs).flat_map(|r| r.text.chars()).filter(|c| *c != ' ').collect();
            prop_assert_eq!(kept, words.concat());
            for row in rows {
                let width: f32 = row.runs().iter().map(|run| fonts.of(run).width(run.text.trim_end())).sum();
                prop_assert!(width <= 150.5);
            }
        }
    }
}
