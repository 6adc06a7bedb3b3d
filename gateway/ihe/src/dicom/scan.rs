//! Part 10 objects as they arrive: preamble, file meta information, and the data set, inflated where it is deflated.

use flate2::{Decompress, FlushDecompress, Status};

use super::walk::{Form, UNDEFINED, Walk, is_short};
use super::{EXPLICIT_BE, IMPLICIT_LE, TRANSFER_SYNTAX, Unsound, is_deflated};

/// How much larger than what was deflated a data set may be, and how large at most (threat table, T-DCM-7).
const RATIO: u64 = 100;
const INFLATED: u64 = 2 << 30;
/// Inflated bytes that may be ahead of the ratio while a stream is still coming.
const AHEAD: u64 = 64 << 10;
/// Bytes inflated at once.
const PIECE: usize = 16 << 10;
/// Bytes of a transfer syntax UID, padding included.
const SYNTAX: u32 = 66;
const GROUP_LENGTH: u32 = 0x0002_0000;

/// Whether a Part 10 object is sound: looked at piece by piece while its bytes pass.
///
/// Every declared length lies within what encloses it, at most 64 sequences are open at once, a deflated data set is at
/// most 100 times as large as what it was deflated to and 2 GiB, and the object ends where its structure ends. The memory
/// that a scan uses does not depend on the object.
pub struct StructureScan {
    size: Option<u64>,
    /// Bytes taken so far.
    at: u64,
    /// Where the file meta information ends by its own account (0002,0000).
    announced: Option<u64>,
    stage: Stage,
    failed: Option<Unsound>,
}

enum Stage {
    /// 128 bytes and `DICM`; how many have passed.
    Preamble(usize),
    Meta(Meta),
    Plain(Box<Walk>, String),
    Deflated(Box<Inflate>, String),
}

impl StructureScan {
    /// Begins a scan. With the object's `size`, where it is known, a length beyond it is noticed when it is declared;
    /// without it, when the object ends.
    pub fn new(size: Option<u64>) -> Self {
        Self { size, at: 0, announced: None, stage: Stage::Preamble(0), failed: None }
    }

    /// The transfer syntax (0002,0010), once the file meta information has passed.
    pub fn transfer_syntax(&self) -> Option<&str> {
        match &self.stage {
            Stage::Plain(_, syntax) | Stage::Deflated(_, syntax) => Some(syntax),
            Stage::Preamble(_) | Stage::Meta(_) => None,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Unsound`]: the object must not go on. Every later call gives the same answer.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Unsound> {
        match self.failed {
            Some(failed) => Err(failed),
            None => self.take(bytes).inspect_err(|error| self.failed = Some(*error)),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Unsound> {
        loop {
            match &mut self.stage {
                Stage::Preamble(passed) => {
                    let step = (132 - *passed).min(bytes.len());
                    for (index, byte) in (*passed..).zip(&bytes[..step]) {
                        if index >= 128 && *byte != b"DICM"[index - 128] {
                            return Err(Unsound::Prefix);
                        }
                    }
                    *passed += step;
                    self.at += step as u64;
                    bytes = &bytes[step..];
                    if *passed < 132 {
                        return Ok(());
                    }
                    self.stage = Stage::Meta(Meta::default());
                }
                Stage::Meta(meta) => {
                    let before = bytes.len();
                    let behind = meta.take(&mut bytes, self.at, self.size)?;
                    self.at += (before - bytes.len()) as u64;
                    let Some(behind) = behind else { return Ok(()) };
                    self.announced = meta.announced;
                    let syntax = meta.syntax()?;
                    self.stage = if is_deflated(&syntax) {
                        Stage::Deflated(Box::new(Inflate::new()), syntax)
                    } else {
                        let size = self.size.map(|size| (size + behind.len() as u64).saturating_sub(self.at));
                        Stage::Plain(Box::new(Walk::new(form(&syntax), size)), syntax)
                    };
                    self.data(&behind)?;
                }
                Stage::Plain(..) | Stage::Deflated(..) => {
                    self.at += bytes.len() as u64;
                    return self.data(bytes);
                }
            }
        }
    }

    /// How many of the bytes that follow are not looked at: whoever reads a file need not read them.
    pub fn ahead(&self) -> u64 {
        match &self.stage {
            Stage::Plain(walk, _) => walk.ahead(),
            _ => 0,
        }
    }

    /// Passes over so many bytes unread, at most [`Self::ahead`].
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn skip(&mut self, bytes: u64) -> Result<(), Unsound> {
        match (self.failed, &mut self.stage) {
            (Some(failed), _) => Err(failed),
            (None, Stage::Plain(walk, _)) => {
                let bytes = bytes.min(walk.ahead());
                self.at += bytes;
                walk.skip(bytes, &mut ()).inspect_err(|error| self.failed = Some(*error))
            }
            _ => Ok(()),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Unsound> {
        match &mut self.stage {
            Stage::Plain(walk, _) => walk.push(bytes, &mut ()),
            Stage::Deflated(inflate, _) => inflate.push(bytes),
            Stage::Preamble(_) | Stage::Meta(_) => Ok(()),
        }
    }

    /// Says that the object has ended.
    ///
    /// # Errors
    /// [`Unsound`]: what was scanned is not a whole object.
    pub fn finish(&mut self) -> Result<(), Unsound> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if self.announced.is_some_and(|end| end > self.at) {
            return Err(Unsound::Length);
        }
        match &mut self.stage {
            Stage::Preamble(_) => Err(Unsound::Prefix),
            Stage::Meta(_) => Err(Unsound::Ends),
            Stage::Plain(walk, _) => walk.finish(&mut ()),
            Stage::Deflated(inflate, _) => inflate.finish(),
        }
    }
}

/// Group 0002, read to its end: to the first element of another group, whatever (0002,0000) says. The length adds no fact
/// (PS3.10 7.1), and files in which it is absent or wrong are common; one beyond the file is a lie about the file.
#[derive(Default)]
struct Meta {
    head: [u8; 12],
    held: usize,
    /// The element whose value is passing, and how much of it is still to come.
    passing: Option<(u32, u32)>,
    /// The values that are wanted: of (0002,0000) or (0002,0010).
    value: Vec<u8>,
    syntax: Option<String>,
    announced: Option<u64>,
}

impl Meta {
    /// Takes bytes, of which the first stands `at`. At the end of the group: its two bytes that belong to the data set.
    fn take(&mut self, bytes: &mut &[u8], at: u64, size: Option<u64>) -> Result<Option<[u8; 2]>, Unsound> {
        let begin = bytes.len();
        loop {
            let passed = |bytes: &[u8]| at + (begin - bytes.len()) as u64;
            if let Some((tag, left)) = self.passing {
                let step = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                if matches!(tag, GROUP_LENGTH | TRANSFER_SYNTAX) {
                    self.value.extend_from_slice(&bytes[..step]);
                }
                *bytes = &bytes[step..];
                let left = left - u32::try_from(step).unwrap_or(left);
                self.passing = Some((tag, left));
                if left > 0 {
                    return Ok(None);
                }
                self.passing = None;
                self.keep(tag, passed(bytes), size)?;
            }
            if !self.fill(2, bytes) {
                return Ok(None);
            }
            if self.head[..2] != [2, 0] {
                return Ok(Some([self.head[0], self.head[1]]));
            }
            if !self.fill(8, bytes) {
                return Ok(None);
            }
            let [_, _, a, b, v, r, l0, l1, ..] = self.head;
            let tag = 0x0002_0000 | u32::from(u16::from_le_bytes([a, b]));
            let length = match [v, r] {
                [v, r] if is_short([v, r]) => u32::from(u16::from_le_bytes([l0, l1])),
                [v, r] if v.is_ascii_uppercase() && r.is_ascii_uppercase() => {
                    if !self.fill(12, bytes) {
                        return Ok(None);
                    }
                    let [.., l0, l1, l2, l3] = self.head;
                    u32::from_le_bytes([l0, l1, l2, l3])
                }
                _ => return Err(Unsound::Representation),
            };
            let ends = passed(bytes) + u64::from(length);
            let too_long = tag == TRANSFER_SYNTAX && length > SYNTAX || tag == GROUP_LENGTH && length != 4;
            if length == UNDEFINED || too_long || size.is_some_and(|size| ends > size) {
                return Err(Unsound::Length);
            }
            self.held = 0;
            self.value.clear();
            self.passing = Some((tag, length));
        }
    }

    fn keep(&mut self, tag: u32, at: u64, size: Option<u64>) -> Result<(), Unsound> {
        if tag == TRANSFER_SYNTAX {
            // Two of them would let one reader see another object than the next.
            let twice = self.syntax.is_some();
            let text = std::str::from_utf8(&self.value).map_err(|_| Unsound::Syntax)?;
            self.syntax = Some(text.trim_matches(['\0', ' ']).to_owned());
            return if twice { Err(Unsound::Order) } else { Ok(()) };
        }
        if let (GROUP_LENGTH, Ok(length)) = (tag, <[u8; 4]>::try_from(self.value.as_slice())) {
            let announced = at + u64::from(u32::from_le_bytes(length));
            self.announced = Some(announced);
            return if size.is_some_and(|size| announced > size) { Err(Unsound::Length) } else { Ok(()) };
        }
        Ok(())
    }

    fn fill(&mut self, wanted: usize, bytes: &mut &[u8]) -> bool {
        let step = wanted.saturating_sub(self.held).min(bytes.len());
        self.head[self.held..self.held + step].copy_from_slice(&bytes[..step]);
        self.held += step;
        *bytes = &bytes[step..];
        self.held >= wanted
    }

    fn syntax(&mut self) -> Result<String, Unsound> {
        self.syntax.take().filter(|syntax| !syntax.is_empty()).ok_or(Unsound::Syntax)
    }
}

/// How the data set of a transfer syntax is written, once it is inflated.
pub(super) fn form(syntax: &str) -> Form {
    Form { implicit: syntax == IMPLICIT_LE, big: syntax == EXPLICIT_BE }
}

/// A deflated data set, walked as it is inflated.
struct Inflate {
    inflater: Inflater,
    walk: Walk,
}

impl Inflate {
    fn new() -> Self {
        Self { inflater: Inflater::new(), walk: Walk::new(Form::EXPLICIT, None) }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Unsound> {
        self.inflater.push(bytes, |piece| {
            self.walk.push(piece, &mut ())?;
            Ok(self.walk.stopped().is_none())
        })
    }

    fn finish(&mut self) -> Result<(), Unsound> {
        if !self.inflater.ended && self.walk.stopped().is_none() {
            return Err(Unsound::Ends);
        }
        self.walk.finish(&mut ())
    }
}

/// Inflates within bounds.
struct Inflater {
    stream: Decompress,
    ended: bool,
}

impl Inflater {
    fn new() -> Self {
        Self { stream: Decompress::new(false), ended: false }
    }

    /// Passes what the next bytes inflate to on, piece by piece, for as long as it is wanted. What stands behind the end of
    /// the stream, as the byte that makes its length even (PS3.5 A.5), is no part of it.
    fn push(&mut self, mut bytes: &[u8], mut sink: impl FnMut(&[u8]) -> Result<bool, Unsound>) -> Result<(), Unsound> {
        let mut piece = [0; PIECE];
        while !self.ended {
            let (taken, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(bytes, &mut piece, FlushDecompress::None);
            let status = status.map_err(|_| Unsound::Deflated)?;
            let (taken, made) = (self.stream.total_in() - taken, self.stream.total_out() - made);
            bytes = &bytes[usize::try_from(taken).unwrap_or(bytes.len())..];
            let wanted = sink(&piece[..usize::try_from(made).unwrap_or(0)])?;
            self.ended = status == Status::StreamEnd;
            self.check_ratio()?;
            if !wanted || taken == 0 && made == 0 {
                break;
            }
        }
        Ok(())
    }

    fn check_ratio(&self) -> Result<(), Unsound> {
        let ahead = if self.ended { 0 } else { AHEAD };
        let most = self.stream.total_in().saturating_mul(RATIO).saturating_add(ahead);
        if self.stream.total_out() <= most.min(INFLATED) { Ok(()) } else { Err(Unsound::Inflated) }
    }
}

/// The beginning of a deflated data set, not much more than `most` bytes of it, and whether that is all of it.
pub(super) fn inflate(deflated: &[u8], most: usize) -> Result<(Vec<u8>, bool), Unsound> {
    let mut inflater = Inflater::new();
    let mut out = Vec::new();
    inflater.push(deflated, |piece| {
        out.extend_from_slice(piece);
        Ok(out.len() < most)
    })?;
    Ok((out, inflater.ended))
}

/// Where the data set of an object begins and in which transfer syntax it is; none when the bytes end before.
pub(super) fn meta(bytes: &[u8], whole: bool) -> Result<Option<(usize, String)>, Unsound> {
    let Some(mut rest) = bytes.get(132..) else { return Ok(None) };
    let mut meta = Meta::default();
    let Some(behind) = meta.take(&mut rest, 132, whole.then_some(bytes.len() as u64))? else { return Ok(None) };
    Ok(Some((bytes.len() - rest.len() - behind.len(), meta.syntax()?)))
}
