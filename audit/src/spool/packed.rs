//! How an item lies in its frame: as JSON, or, when it is long, packed. Names and evidence stand in both dialects of every
//! message of an exchange, further apart than any window of a compressor; packed, each takes its place once.

use std::collections::HashMap;
use std::io::{Error, Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use super::Item;

/// Longer items are packed, bytes.
const LONG: usize = 16 << 10;
/// Before a packed item; JSON begins otherwise.
const PACKED: u8 = 1;
/// A text between two quotes that is as long stands for its repetitions, bytes.
const REPEATED: usize = 256;

/// What stands between two quotes of the JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Piece<'a> {
    /// As the piece with this number.
    Same(usize),
    /// Itself.
    Text(std::borrow::Cow<'a, str>),
}

impl Item {
    /// As a frame holds it.
    pub(crate) fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        let json = serde_json::to_string(self).map_err(Error::other)?;
        if json.len() <= LONG {
            return Ok(json.into_bytes());
        }
        let packed = serde_json::to_vec(&pieces(&json)).map_err(Error::other)?;
        let mut out = DeflateEncoder::new(vec![PACKED], Compression::fast());
        out.write_all(&packed)?;
        out.finish()
    }

    /// Reads what a frame holds; releases before 0.2 packed nothing.
    pub(crate) fn from_bytes(bytes: &[u8]) -> std::io::Result<Self> {
        let Some((&PACKED, packed)) = bytes.split_first() else {
            return serde_json::from_slice(bytes).map_err(Error::other);
        };
        let mut unpacked = String::new();
        DeflateDecoder::new(packed).read_to_string(&mut unpacked)?;
        let pieces: Vec<Piece<'_>> = serde_json::from_str(&unpacked).map_err(Error::other)?;
        let text = |piece: &Piece<'_>| match piece {
            Piece::Text(text) => Some(text.to_string()),
            Piece::Same(number) => match pieces.get(*number) {
                Some(Piece::Text(text)) => Some(text.to_string()),
                _ => None,
            },
        };
        let texts = pieces.iter().map(text).collect::<Option<Vec<_>>>();
        let json = texts.ok_or_else(|| Error::other("a packed item refers to nothing"))?.join("\"");
        serde_json::from_str(&json).map_err(Error::other)
    }
}

/// The texts between quotes; of one that is long and came before only where.
fn pieces(json: &str) -> Vec<Piece<'_>> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut out = Vec::new();
    for (number, text) in json.split('"').enumerate() {
        out.push(match known.get(text) {
            Some(same) => Piece::Same(*same),
            None => Piece::Text(text.into()),
        });
        if text.len() >= REPEATED {
            known.entry(text).or_insert(number);
        }
    }
    out
}
