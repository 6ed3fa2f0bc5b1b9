//! The body of a frame between nodes: small fields gathered together, payloads beside them, uncopied.
//!
//! All integers are little-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A payload from this size on is a part of its own; smaller ones are cheaper to copy than to gather.
const PART_BYTES_MIN: usize = 512;

/// Bytes that are no frame of this release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends inside a field.
    #[error("the frame ends inside a field")]
    Short,
    /// A field has a value that it never has.
    #[error("the field {0} has no such value")]
    Field(&'static str),
}

/// Builds the body of a frame.
#[derive(Debug, Default)]
pub struct FrameWriter {
    parts: Vec<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl FrameWriter {
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// How much was written.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a byte.
    pub fn put_u8(&mut self, value: u8) {
        self.small.put_u8(value);
        self.bytes += 1;
    }

    /// Appends 4 bytes.
    pub fn put_u32(&mut self, value: u32) {
        self.small.put_u32_le(value);
        self.bytes += 4;
    }

    /// Appends 8 bytes.
    pub fn put_u64(&mut self, value: u64) {
        self.small.put_u64_le(value);
        self.bytes += 8;
    }

    /// Appends a payload with its length, which is a part of its own where it is large.
    pub fn put_bytes(&mut self, payload: &Bytes) {
        self.put_parts(std::slice::from_ref(payload));
    }

    /// Appends payloads as one, with their length.
    pub fn put_parts(&mut self, payloads: &[Bytes]) {
        let bytes: usize = payloads.iter().map(Bytes::len).sum();
        self.put_u32(u32::try_from(bytes).expect("payloads are bounded far below 4 GiB"));
        payloads.iter().for_each(|payload| self.put_payload(payload));
    }

    fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() < PART_BYTES_MIN {
            self.small.put_slice(payload);
        } else {
            self.parts.push(self.small.split().freeze());
            self.parts.push(payload.clone());
        }
        self.bytes += payload.len();
    }

    /// The body, in pieces.
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.small.is_empty() {
            self.parts.push(self.small.freeze());
        }
        self.parts
    }
}

/// Takes the body of a frame apart, without copying payloads.
#[derive(Debug)]
pub struct FrameReader {
    rest: Bytes,
}

impl FrameReader {
    /// Reads from the start of a body.
    pub fn new(body: Bytes) -> FrameReader {
        FrameReader { rest: body }
    }

    /// Bytes that were not read yet.
    pub fn left_bytes(&self) -> usize {
        self.rest.len()
    }

    /// What was not read yet.
    pub fn rest(self) -> Bytes {
        self.rest
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, FrameError> {
        self.need(1)?;
        Ok(self.rest.get_u8())
    }

    /// The next 4 bytes.
    pub fn u32(&mut self) -> Result<u32, FrameError> {
        self.need(4)?;
        Ok(self.rest.get_u32_le())
    }

    /// The next 8 bytes.
    pub fn u64(&mut self) -> Result<u64, FrameError> {
        self.need(8)?;
        Ok(self.rest.get_u64_le())
    }

    /// The next payload.
    pub fn bytes(&mut self) -> Result<Bytes, FrameError> {
        let length = self.u32()? as usize;
        self.need(length)?;
        Ok(self.rest.split_to(length))
    }

    /// The next bit, which takes a byte.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, FrameError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError::Field(field)),
        }
    }

    fn need(&self, bytes: usize) -> Result<(), FrameError> {
        if self.rest.len() < bytes { Err(FrameError::Short) } else { Ok(()) }
    }
}
