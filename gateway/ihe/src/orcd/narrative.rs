//! The narrative block of a CDA section as lines for reading (CDA R2 4.3.5).
//!
//! Whatever changes the meaning of the text is kept: numbers of lists, powers and indices, empty cells, bold. Text that the
//! author marked as deleted is left out. What a page of text cannot show is named in its place.

use std::collections::BTreeSet;

use ncp_xml::{Element, Node};

/// A piece of a line in one style.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// Its text.
    pub text: String,
    /// Whether it is emphasised by weight.
    pub bold: bool,
    /// Whether it is slanted.
    pub italic: bool,
}

/// A line of text: a paragraph, an item of a list, a row of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    /// Level of a heading, from 2; 0 for other lines.
    pub heading: u8,
    /// How deep it stands in lists.
    pub indent: u8,
    /// Its pieces, in order.
    pub runs: Vec<Run>,
}

impl Line {
    /// A line of plain text.
    pub fn plain(text: impl Into<String>) -> Self {
        Self { runs: vec![Run { text: text.into(), ..Run::default() }], ..Self::default() }
    }

    /// A heading of a level.
    pub fn heading(level: u8, text: impl Into<String>) -> Self {
        let runs = vec![Run { text: text.into(), bold: true, italic: false }];
        Self { heading: level, indent: 0, runs }
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.runs.iter().map(|run| run.text.as_str()).collect()
    }
}

/// Most columns and rows that one cell may span.
const MOST_SPAN: usize = 100;
/// Characters of a whole report: more than any that people read, and what spanning cells may repeat is among them.
const MOST_CHARACTERS: usize = 4 << 20;

/// Reads narrative blocks one after the other.
pub(super) struct Narrative {
    /// The finished lines.
    pub(super) lines: Vec<Line>,
    /// Whether deleted text was left out.
    pub(super) deleted: bool,
    /// Names of elements that the narrative block does not have; their text is shown.
    pub(super) unknown: BTreeSet<String>,
    line: Line,
    indent: u8,
    bold: bool,
    italic: bool,
    /// White space was read behind the last character.
    space: bool,
    /// Characters that may still be taken.
    left: usize,
}

impl Default for Narrative {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            deleted: false,
            unknown: BTreeSet::new(),
            line: Line::default(),
            indent: 0,
            bold: false,
            italic: false,
            space: false,
            left: MOST_CHARACTERS,
        }
    }
}

impl Narrative {
    /// Reads the `text` element of a section.
    pub(super) fn read(&mut self, text: &Element) {
        self.children(text);
        self.end();
    }

    /// Whether there was more than may be read; the lines are then not whole.
    pub(super) fn exhausted(&self) -> bool {
        self.left == 0
    }

    /// Takes characters off what may still be read.
    fn spend(&mut self, characters: usize) -> bool {
        self.left = self.left.saturating_sub(characters);
        self.left > 0
    }

    /// Reads an element apart: its lines do not enter this block, what it spends and leaves out does.
    fn apart(&mut self, style: Self, read: impl FnOnce(&mut Self)) -> Vec<Line> {
        let mut apart = Self { left: self.left, ..style };
        read(&mut apart);
        self.deleted |= apart.deleted;
        self.unknown.append(&mut apart.unknown);
        self.left = apart.left;
        apart.lines
    }

    fn children(&mut self, element: &Element) {
        for child in element.children() {
            match child {
                Node::Text(text) | Node::Raw(text) => self.text(text),
                Node::Element(child) => self.element(child),
                Node::Gap => {}
            }
        }
    }

    fn element(&mut self, element: &Element) {
        match element.local() {
            "content" if element.get("revised") == Some("delete") => self.deleted = true,
            // No elements of CDA, and understood by every reader of the text.
            "del" | "s" | "strike" => self.deleted = true,
            "content" => self.styled(element),
            "b" | "strong" => self.weighted(element, true, self.italic),
            "i" | "em" => self.weighted(element, self.bold, true),
            "br" => self.end(),
            "sup" => self.script(element, SUPERSCRIPTS, '^'),
            "sub" => self.script(element, SUBSCRIPTS, '_'),
            "paragraph" | "p" | "div" => self.block(element),
            "caption" => {
                self.end();
                self.weighted(element, true, self.italic);
                self.end();
            }
            "list" => self.list(element),
            "table" => self.table(element),
            "linkHtml" => self.link(element),
            "footnote" => self.noted("note", element),
            "footnoteRef" => self.said("[see note]"),
            "renderMultiMedia" => self.picture(element),
            "item" | "tr" | "td" | "th" | "tbody" | "thead" | "tfoot" | "colgroup" | "col" => self.block(element),
            other => {
                self.unknown.insert(other.chars().take(32).collect());
                self.children(element);
            }
        }
    }

    /// Adds text; white space between words is one blank, and none is made where the source has none.
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() && c != '\u{A0}' {
                self.space = true;
                continue;
            }
            if self.space && !self.line.runs.is_empty() {
                self.push(' ');
            }
            self.space = false;
            self.push(c);
        }
    }

    fn push(&mut self, c: char) {
        if !self.spend(1) {
            return;
        }
        let (bold, italic) = (self.bold, self.italic);
        match self.line.runs.last_mut() {
            Some(run) if (run.bold, run.italic) == (bold, italic) => run.text.push(c),
            _ => self.line.runs.push(Run { text: c.to_string(), bold, italic }),
        }
    }

    /// Adds what is said in the place of something that cannot be shown.
    fn said(&mut self, text: &str) {
        self.space = true;
        self.text(text);
    }

    fn end(&mut self) {
        self.space = false;
        let line = std::mem::take(&mut self.line);
        if line.runs.iter().any(|run| !run.text.trim().is_empty()) {
            self.lines.push(Line { indent: self.indent, ..line });
        }
    }

    fn block(&mut self, element: &Element) {
        self.end();
        self.children(element);
        self.end();
    }

    fn styled(&mut self, element: &Element) {
        let styles = element.get("styleCode").unwrap_or_default();
        let has = |names: &[&str]| styles.split_whitespace().any(|style| names.contains(&style));
        let (bold, italic) =
            (self.bold || has(&["Bold", "bold"]), self.italic || has(&["Italics", "Emphasis", "italics"]));
        self.weighted(element, bold, italic);
    }

    fn weighted(&mut self, element: &Element, bold: bool, italic: bool) {
        let before = (self.bold, self.italic);
        (self.bold, self.italic) = (bold, italic);
        self.children(element);
        (self.bold, self.italic) = before;
    }

    /// Raised or lowered text: as characters of that kind, so that it stays so when it is copied; else behind a sign.
    fn script(&mut self, element: &Element, known: &[(char, char)], sign: char) {
        let inside = self.aside(element);
        let text = inside.iter().map(Line::text).collect::<Vec<_>>().join(" ");
        let mapped: Option<String> =
            text.chars().map(|c| known.iter().find(|(plain, _)| *plain == c).map(|(_, script)| *script)).collect();
        match mapped {
            Some(mapped) => self.text(&mapped),
            None => self.text(&format!("{sign}({text})")),
        }
    }

    fn aside(&mut self, element: &Element) -> Vec<Line> {
        let style = Self { bold: self.bold, italic: self.italic, ..Self::default() };
        self.apart(style, |apart| apart.read(element))
    }

    fn noted(&mut self, word: &str, element: &Element) {
        let text: Vec<String> = self.aside(element).iter().map(Line::text).collect();
        self.said(&format!("[{word}: {}]", text.join("; ")));
    }

    fn link(&mut self, element: &Element) {
        self.children(element);
        // A link inside the document says nothing on paper.
        if let Some(target) = element.get("href").filter(|href| !href.starts_with('#')) {
            self.said(&format!("<{target}>"));
        }
    }

    fn picture(&mut self, element: &Element) {
        let caption = element.elements().find(|child| child.local() == "caption");
        let caption: Vec<String> = caption.map(|c| self.aside(c)).unwrap_or_default().iter().map(Line::text).collect();
        match caption.join(" ") {
            empty if empty.is_empty() => self.said("[A picture of the report is not shown here.]"),
            caption => self.said(&format!("[A picture of the report is not shown here: {caption}]")),
        }
    }

    fn list(&mut self, list: &Element) {
        self.end();
        let ordered = list.get("listType") == Some("ordered");
        let style = list.get("styleCode").unwrap_or_default();
        if let Some(caption) = list.elements().find(|child| child.local() == "caption") {
            self.element(caption);
        }
        self.indent += 1;
        for (number, item) in (1..).zip(list.elements().filter(|child| child.local() != "caption")) {
            let marker = if ordered { format!("{}.", numbered(number, style)) } else { "\u{2022}".to_owned() };
            self.end();
            if item.local() != "item" {
                self.element(item);
                continue;
            }
            // The marker belongs to the item even where the item begins with a block of its own.
            let style = Self { indent: self.indent, bold: self.bold, italic: self.italic, ..Self::default() };
            let mut lines = self.apart(style, |inside| inside.read(item));
            let first = lines.iter_mut().find(|line| line.indent == self.indent);
            match first {
                Some(first) => first.runs.insert(0, Run { text: format!("{marker} "), ..Run::default() }),
                // An empty item keeps its number.
                None => lines.insert(0, Line { indent: self.indent, ..Line::plain(marker) }),
            }
            self.lines.append(&mut lines);
        }
        self.indent -= 1;
    }

    /// Rows become lines, their cells apart by bars: an empty cell keeps its place, and a cell that spans rows stands in each.
    fn table(&mut self, table: &Element) {
        self.end();
        let parts = |names: &'static [&'static str]| table.elements().filter(|child| names.contains(&child.local()));
        for caption in parts(&["caption"]) {
            self.element(caption);
        }
        let mut spanning: Vec<Option<(usize, Vec<Run>)>> = Vec::new();
        // A foot stands before the body in the document and below it on the page.
        for part in parts(&["thead"]).chain(parts(&["tbody", "tr"])).chain(parts(&["tfoot"])) {
            let rows: Vec<&Element> = match part.local() {
                "tr" => vec![part],
                _ => part.elements().filter(|child| child.local() == "tr").collect(),
            };
            for row in rows {
                self.row(row, &mut spanning);
            }
        }
        for other in table.elements().filter(|child| {
            !matches!(child.local(), "caption" | "thead" | "tbody" | "tr" | "tfoot" | "col" | "colgroup")
        }) {
            self.element(other);
            self.end();
        }
    }

    fn row(&mut self, row: &Element, spanning: &mut Vec<Option<(usize, Vec<Run>)>>) {
        let mut cells: Vec<Vec<Run>> = Vec::new();
        let mut own = row.elements().peekable();
        loop {
            let column = cells.len();
            if let Some(Some((rows, runs))) = spanning.get_mut(column) {
                // Repeating is what makes a small document large: it is paid for.
                let length = runs.iter().map(|run| run.text.len()).sum();
                self.left = self.left.saturating_sub(length);
                cells.push(if self.left > 0 { runs.clone() } else { Vec::new() });
                *rows -= 1;
                if *rows == 0 {
                    spanning[column] = None;
                }
                continue;
            }
            let Some(cell) = own.next() else {
                // Columns behind the last cell of this row may still be spanned from above.
                match spanning.iter().skip(column).any(Option::is_some) {
                    true => cells.push(Vec::new()),
                    false => break,
                }
                continue;
            };
            let span = |name: &str| {
                let number = cell.get(name).and_then(|n| n.trim().parse::<usize>().ok());
                number.unwrap_or(1).clamp(1, MOST_SPAN)
            };
            let runs = self.cell(cell);
            let (wide, high) = (span("colspan"), span("rowspan"));
            for at in 0..wide {
                if high > 1 {
                    spanning.resize(spanning.len().max(column + at + 1), None);
                    spanning[column + at] = Some((high - 1, if at == 0 { runs.clone() } else { Vec::new() }));
                }
                cells.push(if at == 0 { runs.clone() } else { Vec::new() });
            }
        }
        if cells.iter().flatten().all(|run| run.text.trim().is_empty()) {
            return;
        }
        let mut runs = Vec::new();
        for (number, cell) in cells.into_iter().enumerate() {
            if number > 0 {
                runs.push(Run { text: " | ".into(), ..Run::default() });
            }
            if cell.is_empty() {
                runs.push(Run { text: "\u{2013}".into(), ..Run::default() });
            }
            runs.extend(cell);
        }
        self.lines.push(Line { heading: 0, indent: self.indent, runs });
    }

    fn cell(&mut self, cell: &Element) -> Vec<Run> {
        let style = Self { bold: cell.local() == "th", ..Self::default() };
        let mut runs = Vec::new();
        for line in self.apart(style, |apart| apart.read(cell)) {
            if !runs.is_empty() {
                runs.push(Run { text: "; ".into(), ..Run::default() });
            }
            runs.extend(line.runs);
        }
        runs
    }
}

/// The number of an item in the style of its list (CDA R2 4.3.5.4).
fn numbered(number: usize, style: &str) -> String {
    let has = |name: &str| style.split_whitespace().any(|s| s == name);
    let letters = || {
        let (mut left, mut out) = (number, Vec::new());
        while left > 0 {
            out.push(char::from(b'a' + ((left - 1) % 26) as u8));
            left = (left - 1) / 26;
        }
        out.iter().rev().collect::<String>()
    };
    match () {
        () if has("LittleRoman") => roman(number),
        () if has("BigRoman") => roman(number).to_uppercase(),
        () if has("LittleAlpha") => letters(),
        () if has("BigAlpha") => letters().to_uppercase(),
        () => number.to_string(),
    }
}

fn roman(number: usize) -> String {
    const SIGNS: [(usize, &str); 13] = [
        (1000, "m"),
        (900, "cm"),
        (500, "d"),
        (400, "cd"),
        (100, "c"),
        (90, "xc"),
        (50, "l"),
        (40, "xl"),
        (10, "x"),
        (9, "ix"),
        (5, "v"),
        (4, "iv"),
        (1, "i"),
    ];
    let (mut left, mut out) = (number, String::new());
    for (value, sign) in SIGNS {
        while left >= value && out.len() < 64 {
            out.push_str(sign);
            left -= value;
        }
    }
    out
}

const SUPERSCRIPTS: &[(char, char)] = &[
    ('0', '\u{2070}'),
    ('1', '\u{B9}'),
    ('2', '\u{B2}'),
    ('3', '\u{B3}'),
    ('4', '\u{2074}'),
    ('5', '\u{2075}'),
    ('6', '\u{2076}'),
    ('7', '\u{2077}'),
    ('8', '\u{2078}'),
    ('9', '\u{2079}'),
    ('+', '\u{207A}'),
    ('-', '\u{207B}'),
    ('\u{2212}', '\u{207B}'),
    ('n', '\u{207F}'),
];

const SUBSCRIPTS: &[(char, char)] = &[
    ('0', '\u{2080}'),
    ('1', '\u{2081}'),
    ('2', '\u{2082}'),
    ('3', '\u{2083}'),
    ('4', '\u{2084}'),
    ('5', '\u{2085}'),
    ('6', '\u{2086}'),
    ('7', '\u{2087}'),
    ('8', '\u{2088}'),
    ('9', '\u{2089}'),
    ('+', '\u{208A}'),
    ('-', '\u{208B}'),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> (Vec<String>, Narrative) {
        let xml = format!("<text xmlns='urn:hl7-org:v3'>{text}</text>");
        let element = Element::parse(xml.as_bytes(), &ncp_xml::Limits::ANSWER).expect("XML");
        let mut narrative = Narrative::default();
        narrative.read(&element);
        (narrative.lines.iter().map(Line::text).collect(), narrative)
    }

    #[test]
    fn co_04_what_changes_meaning_is_kept() {
        for (text, right) in [
            ("Ingen <content revised='delete'>stor </content>svulst", vec!["Ingen svulst"]),
            ("<content revised='insert'>Ny</content> tekst", vec!["Ny tekst"]),
            ("Leukocytter 10<sup>9</sup>/L", vec!["Leukocytter 10\u{2079}/L"]),
            ("H<sub>2</sub>O, T<sub>max</sub>", vec!["H\u{2082}O, T_(max)"]),
            ("x<sup>2a</sup>", vec!["x^(2a)"]),
            (
                "<list listType='ordered'><caption>Funn</caption><item>en</item><item/><item><paragraph>tre</paragraph>\
                 </item></list>",
                vec!["Funn", "1. en", "2.", "3. tre"],
            ),
            (
                "<list listType='ordered' styleCode='LittleRoman'><item>a</item><item>b</item><item>c</item>\
                 <item>d</item></list>",
                vec!["i. a", "ii. b", "iii. c", "iv. d"],
            ),
            ("<list><item>ute<list><item>inne</item></list></item></list>", vec!["\u{2022} ute", "\u{2022} inne"]),
            (
                "<table><thead><tr><th/><th>2025</th><th>2026</th></tr></thead><tbody><tr><td/><td>4 mm</td><td/></tr>\
                 </tbody></table>",
                vec!["\u{2013} | 2025 | 2026", "\u{2013} | 4 mm | \u{2013}"],
            ),
            (
                "<table><tbody><tr><td rowspan='2'>Lever</td><td>a</td></tr><tr><td>b</td></tr>\
                 <tr><td colspan='2'>c</td></tr></tbody></table>",
                vec!["Lever | a", "Lever | b", "c | \u{2013}"],
            ),
            (
                "Se <renderMultiMedia referencedObject='MM1'><caption>Pil</caption></renderMultiMedia> her",
                vec!["Se [A picture of the report is not shown here: Pil] her"],
            ),
            ("Svar<footnote ID='f'>usikkert</footnote>", vec!["Svar [note: usikkert]"]),
            ("<linkHtml href='https://a.example/x'>Bilde</linkHtml>", vec!["Bilde <https://a.example/x>"]),
            ("En <content>to</content>\n tre<br/>fire", vec!["En to tre", "fire"]),
            ("for<content styleCode='Bold'>bud</content>t", vec!["forbudt"]),
        ] {
            assert_eq!(lines(text).0, right, "{text}");
        }
    }

    #[test]
    fn co_04_styles_and_omissions_are_known() {
        let (_, narrative) =
            lines("<content styleCode='Bold'>Ikke</content> ramt <content revised='delete'>x</content><q>y</q>");
        assert!(narrative.deleted);
        assert_eq!(narrative.unknown.iter().map(String::as_str).collect::<Vec<_>>(), ["q"]);
        assert!(narrative.lines[0].runs[0].bold && !narrative.lines[0].runs[1].bold);
    }

    #[test]
    fn numbers_in_every_style() {
        assert_eq!([1, 26, 27, 53].map(|n| numbered(n, "BigAlpha")), ["A", "Z", "AA", "BA"]);
        assert_eq!([4, 9, 1994].map(|n| numbered(n, "BigRoman")), ["IV", "IX", "MCMXCIV"]);
        assert_eq!(numbered(7, "Arabic"), "7");
    }
}
