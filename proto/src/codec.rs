//! Reading of messages within a bound of memory. On the wire an empty item of a list takes two bytes, in memory a hundred and
//! more: what the lists of a message will take is counted before it is read, by the shape that its contract gives it.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// Memory of the lists of one message: of any, and for each of its bytes. Its bytes and the texts made of them come beside.
const HELD: usize = 40 << 20;
const PER_BYTE: usize = 4;
/// A list that grows stands twice for a time, and has place for as many items more.
const GROWN: usize = 3;
/// What an allocation takes for itself.
const ALLOCATION: usize = 16;
/// How deep messages stand in messages at most; prost reads no more.
const DEPTH: usize = 100;

/// What of a message takes memory beside its bytes.
#[derive(Debug)]
pub struct Shape(pub &'static [Field]);

/// A field that is a list or a message.
#[derive(Debug)]
pub struct Field {
    /// The number of the field in its message.
    pub tag: u64,
    /// What an item takes in its list; 0 where there is no list.
    pub item: usize,
    /// Its items are numbers, which may stand one after the other.
    pub numbers: bool,
    /// Messages, and their shape.
    pub of: Option<&'static Shape>,
}

/// A message of a contract.
pub trait Shaped {
    /// The shape of this message.
    const SHAPE: &'static Shape;
}

/// The encoding of all services: protobuf, read within the bound.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Shaped + Send + 'static> tonic::codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Reader<U> {
        Reader(PhantomData)
    }
}

/// Reads messages of a call, after what their lists will take was counted.
#[derive(Debug, Clone)]
pub struct Reader<U>(PhantomData<U>);

impl<U: Message + Default + Shaped> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        read(buffer.copy_to_bytes(buffer.remaining())).map(Some)
    }
}

/// Reads a message.
///
/// # Errors
/// No such message, or lists that take much more memory than their bytes.
pub fn read<U: Message + Default + Shaped>(bytes: Bytes) -> Result<U, Status> {
    let mut left = HELD + PER_BYTE * bytes.len();
    count(&bytes, U::SHAPE, &mut left, DEPTH)
        .ok_or_else(|| Status::out_of_range("the message has more items than its bytes may have"))?;
    // As tonic's own codec says it.
    U::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

/// Takes what the lists need from what is left; nothing when that is not enough. What is no message is told by who reads it.
fn count(mut bytes: &[u8], shape: &Shape, left: &mut usize, depth: usize) -> Option<()> {
    while let Some((tag, content)) = next(&mut bytes) {
        let (Some(content), Some(field)) = (content, shape.0.iter().find(|field| field.tag == tag)) else { continue };
        let items = if field.numbers { content.len() } else { 1 };
        if field.item > 0 {
            let wanted = items.saturating_mul(GROWN * field.item).saturating_add(ALLOCATION);
            *left = left.checked_sub(wanted)?;
        }
        if let (Some(of), Some(depth)) = (field.of, depth.checked_sub(1)) {
            count(content, of, left, depth)?;
        }
    }
    Some(())
}

/// The next field: its number, and its content where it has a length. What stands in a group counts as if it stood outside.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let key = varint(bytes)?;
    let length = match key & 7 {
        0 => {
            varint(bytes)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(bytes)?).ok()?,
        5 => 4,
        3 | 4 => 0,
        _ => return None,
    };
    let content = bytes.split_off(..length)?;
    Some((key >> 3, (key & 7 == 2).then_some(content)))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut out = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        out |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(out);
        }
    }
    None
}
