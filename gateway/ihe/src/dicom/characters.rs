//! Text of a data set as Unicode: the character sets of (0008,0005) and the escape sequences between them (PS3.3
//! C.12.1.1.2, PS3.5 6.1.2).

use encoding_rs::{
    EUC_JP, EUC_KR, Encoding, GB18030, GBK, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6, ISO_8859_7,
    ISO_8859_8, ISO_8859_15, SHIFT_JIS, UTF_8, WINDOWS_874,
};

const ESCAPE: u8 = 0x1B;

/// The character set with which the texts of a data set begin.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Characters(Upper);

/// What bytes from 80 on stand for.
#[derive(Debug, Clone, Copy, Default)]
enum Upper {
    /// ISO 8859-1; also what is read where no character set is said, or an unknown one.
    #[default]
    Latin1,
    /// ISO 8859-9, which is Latin 1 but for six letters.
    Turkish,
    /// Any other that begins with ASCII, and from which escape sequences lead on.
    Extended(&'static Encoding),
    /// One that has no code extensions: UTF-8, GB 18030, GBK.
    Alone(&'static Encoding),
}

/// What bytes below 80 stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lower {
    Ascii,
    /// JIS X 0208, two bytes each.
    Kanji,
    /// JIS X 0212, two bytes each.
    SupplementaryKanji,
}

/// Which characters set back the character sets to the first (PS3.5 6.1.2.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delimiters {
    /// Line ends, and the delimiter of values.
    Values,
    /// Line ends alone: in a text of one value the backslash is a character like others.
    Lines,
    /// Those of values, and of components and groups of a person's name.
    Names,
}

impl Delimiters {
    fn has(self, byte: u8) -> bool {
        match byte {
            b'\t' | b'\n' | 0x0C | b'\r' => true,
            b'\\' => self != Self::Lines,
            b'^' | b'=' => self == Self::Names,
            _ => false,
        }
    }
}

impl Characters {
    /// Reads the value of (0008,0005), of which the first counts: the others are told apart by their escape sequences.
    /// None where it is not known.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let first = value.split(|byte| *byte == b'\\').next()?;
        let first = std::str::from_utf8(first).ok()?.trim_matches(['\0', ' ']);
        Some(Self(match first {
            "GB18030" => Upper::Alone(GB18030),
            "GBK" => Upper::Alone(GBK),
            "" => Upper::Latin1,
            _ => match registered(first)? {
                6 | 14 | 87 | 159 | 100 => Upper::Latin1,
                13 => Upper::Extended(SHIFT_JIS),
                58 => Upper::Extended(GBK),
                101 => Upper::Extended(ISO_8859_2),
                109 => Upper::Extended(ISO_8859_3),
                110 => Upper::Extended(ISO_8859_4),
                126 => Upper::Extended(ISO_8859_7),
                127 => Upper::Extended(ISO_8859_6),
                138 => Upper::Extended(ISO_8859_8),
                144 => Upper::Extended(ISO_8859_5),
                148 => Upper::Turkish,
                149 => Upper::Extended(EUC_KR),
                166 => Upper::Extended(WINDOWS_874),
                192 => Upper::Alone(UTF_8),
                203 => Upper::Extended(ISO_8859_15),
                _ => return None,
            },
        }))
    }

    /// Decodes a value. Bytes that stand for nothing become U+FFFD.
    pub(crate) fn decode(self, bytes: &[u8], delimiters: Delimiters) -> String {
        if let Upper::Alone(encoding) = self.0 {
            return encoding.decode_without_bom_handling(bytes).0.into_owned();
        }
        let mut out = String::with_capacity(bytes.len());
        let (mut lower, mut upper) = (Lower::Ascii, self.0);
        let mut rest = bytes;
        while let Some(byte) = rest.first().copied() {
            if byte == ESCAPE
                && let Some(length) = escape(rest, &mut lower, &mut upper)
            {
                rest = &rest[length..];
                continue;
            }
            if lower == Lower::Ascii && delimiters.has(byte) || byte < b' ' {
                out.push(char::from(byte));
                rest = &rest[1..];
                (lower, upper) = (Lower::Ascii, self.0);
                continue;
            }
            let run = match lower {
                Lower::Ascii => rest.iter().position(|byte| *byte < b' ' || delimiters.has(*byte)),
                _ => rest.iter().position(|byte| *byte < b' '),
            };
            let (run, behind) = rest.split_at(run.unwrap_or(rest.len()));
            match lower {
                Lower::Ascii => upper.decode(run, &mut out),
                Lower::Kanji | Lower::SupplementaryKanji => kanji(run, lower, upper, &mut out),
            }
            rest = behind;
        }
        out
    }
}

/// The registration number in `ISO_IR 100`, `ISO 2022 IR 100`, and in what people write for them.
fn registered(term: &str) -> Option<u32> {
    let (before, number) = term.rsplit_once([' ', '_', '-'])?;
    if before.ends_with("IR") { number.parse().ok() } else { None }
}

impl Upper {
    fn decode(self, run: &[u8], out: &mut String) {
        match self {
            Self::Latin1 => out.extend(run.iter().map(|byte| char::from(*byte))),
            Self::Turkish => out.extend(run.iter().map(|byte| match byte {
                0xD0 => 'Ğ',
                0xDD => 'İ',
                0xDE => 'Ş',
                0xF0 => 'ğ',
                0xFD => 'ı',
                0xFE => 'ş',
                other => char::from(*other),
            })),
            Self::Extended(encoding) | Self::Alone(encoding) => {
                out.push_str(&encoding.decode_without_bom_handling(run).0);
            }
        }
    }
}

/// Characters of two bytes below 80, with spaces and bytes of the upper half between them.
fn kanji(run: &[u8], lower: Lower, upper: Upper, out: &mut String) {
    let mut rest = run;
    while let [first, behind @ ..] = rest {
        match (first, behind) {
            (b' ', _) => out.push(' '),
            (0x80.., _) => upper.decode(&rest[..1], out),
            (_, [second @ 0x21..=0x7E, ..]) => {
                let pair = [0x8F, first | 0x80, second | 0x80];
                let coded = if lower == Lower::Kanji { &pair[1..] } else { &pair };
                out.push_str(&EUC_JP.decode_without_bom_handling(coded).0);
                rest = &behind[1..];
                continue;
            }
            _ => out.push(char::REPLACEMENT_CHARACTER),
        }
        rest = behind;
    }
}

/// Reads an escape sequence (PS3.3 tables C.12-3 and C.12-4); how long it is, if it is one.
fn escape(bytes: &[u8], lower: &mut Lower, upper: &mut Upper) -> Option<usize> {
    let single = |encoding| Upper::Extended(encoding);
    match bytes.get(1..)? {
        [b'(', b'B' | b'J', ..] => *lower = Lower::Ascii,
        [b'$', b'B' | b'@', ..] => *lower = Lower::Kanji,
        [b'$', b'(', b'D', ..] => {
            *lower = Lower::SupplementaryKanji;
            return Some(4);
        }
        [b'$', b')', set @ (b'A' | b'C'), ..] => {
            *upper = single(if *set == b'A' { GBK } else { EUC_KR });
            return Some(4);
        }
        [b')', b'I', ..] => *upper = single(SHIFT_JIS),
        [b'-', set, ..] => {
            *upper = match set {
                b'A' => Upper::Latin1,
                b'B' => single(ISO_8859_2),
                b'C' => single(ISO_8859_3),
                b'D' => single(ISO_8859_4),
                b'F' => single(ISO_8859_7),
                b'G' => single(ISO_8859_6),
                b'H' => single(ISO_8859_8),
                b'L' => single(ISO_8859_5),
                b'M' => Upper::Turkish,
                b'T' => single(WINDOWS_874),
                b'b' => single(ISO_8859_15),
                _ => return None,
            }
        }
        _ => return None,
    }
    Some(3)
}
