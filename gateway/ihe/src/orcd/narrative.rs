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

/// Most columns that one cell may span, and most rows.
const MOST_COLUMNS: usize = 100;
const MOST_ROWS: usize = 20_000;
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

    /// The child elements that are not deleted. Text between them, where there should be none, is shown.
    fn shown<'a>(&mut self, element: &'a Element) -> Vec<&'a Element> {
        let mut out = Vec::new();
        for child in element.children() {
            match child {
                Node::Text(text) | Node::Raw(text) if !text.trim().is_empty() => {
                    self.text(text);
                    self.end();
                }
                Node::Element(child) if is_deleted(child) => self.deleted = true,
                Node::Element(child) => out.push(child),
                _ => {}
            }
        }
        out
    }

    fn element(&mut self, element: &Element) {
        match element.local() {
            _ if is_deleted(element) => self.deleted = true,
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
            "tr" => self.row(element, &mut Vec::new()),
            "item" | "td" | "th" | "tbody" | "thead" | "tfoot" | "colgroup" | "col" => self.block(element),
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
        let (captions, items): (Vec<_>, Vec<_>) =
            self.shown(list).into_iter().partition(|child| child.local() == "caption");
        captions.into_iter().for_each(|caption| self.element(caption));
        self.indent += 1;
        for (number, item) in (1..).zip(items) {
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
        let shown = self.shown(table);
        let parts =
            |names: &'static [&'static str]| shown.iter().copied().filter(|child| names.contains(&child.local()));
        for caption in parts(&["caption"]) {
            self.element(caption);
        }
        let mut spanning = Vec::new();
        // A foot stands before the body in the document and below it on the page.
        for part in parts(&["thead"]).chain(parts(&["tbody", "tr"])).chain(parts(&["tfoot"])) {
            let rows = if part.local() == "tr" { vec![part] } else { self.shown(part) };
            for row in rows {
                match row.local() {
                    "tr" => self.row(row, &mut spanning),
                    _ => self.block(row),
                }
            }
        }
        let known = ["caption", "thead", "tbody", "tr", "tfoot", "col", "colgroup"];
        for other in shown.iter().filter(|child| !known.contains(&child.local())) {
            self.element(other);
            self.end();
        }
    }

    fn row(&mut self, row: &Element, spanning: &mut Vec<Option<(usize, Vec<Run>)>>) {
        self.end();
        let mut cells: Vec<Vec<Run>> = Vec::new();
        let mut own = self.shown(row).into_iter();
        // Repeating is what makes a small document large: every cell is paid for.
        while self.spend(1) {
            let column = cells.len();
            if let Some(Some((rows, runs))) = spanning.get_mut(column) {
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
            let span = |name: &str, most: usize| {
                let number = cell.get(name).and_then(|n| n.trim().parse::<usize>().ok());
                number.unwrap_or(1).clamp(1, most)
            };
            let runs = self.cell(cell);
            let (wide, high) = (span("colspan", MOST_COLUMNS), span("rowspan", MOST_ROWS));
            self.spend(wide);
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
        let is_cell = matches!(cell.local(), "td" | "th");
        let read = |apart: &mut Self| {
            if is_cell {
                apart.children(cell)
            } else {
                apart.element(cell)
            }
            apart.end();
        };
        for line in self.apart(style, read) {
            if !runs.is_empty() {
                runs.push(Run { text: "; ".into(), ..Run::default() });
            }
            runs.extend(line.runs);
        }
        runs
    }
}

/// Whether the author took it back: `revised` is CDA's way (an NMTOKEN, so that blanks around it do not count), the others
/// are no elements or styles of CDA, and understood by every reader of the text.
fn is_deleted(element: &Element) -> bool {
    let struck = |style: &str| {
        let style = style.to_ascii_lowercase();
        ["strike", "line-through", "linethrough"].iter().any(|word| style.contains(word))
    };
    matches!(element.local(), "del" | "s" | "strike")
        || element.get("revised").is_some_and(|revised| revised.trim().eq_ignore_ascii_case("delete"))
        || element.get("styleCode").is_some_and(struck)
        || element.get("style").is_some_and(struck)
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
mod tests;
