//! Reading and writing the primitive fields of Kafka's protocol with hand-written code.

use bytes::{Buf, BufMut};

use crate::error::DecodeError;

/// Array elements that may be reserved before any of them is read.
const RESERVED_ELEMENTS_MAX: usize = 1024;

/// What the 16 bits of the older form can say. Kafka's brokers take no more in the compact form either.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// What can be wrong with a primitive field. Small and with nothing to drop, unlike [`DecodeError`], because the
/// walk over the records of a batch reads six of them per record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    Truncated,
    InvalidVarint,
    InvalidTags,
    StringTooLong,
}

impl From<WireError> for DecodeError {
    fn from(error: WireError) -> DecodeError {
        match error {
            WireError::Truncated => DecodeError::Truncated,
            WireError::InvalidVarint => DecodeError::InvalidVarint,
            WireError::InvalidTags => DecodeError::InvalidTags,
            WireError::StringTooLong => DecodeError::StringTooLong,
        }
    }
}

type Result<T> = core::result::Result<T, WireError>;

#[inline]
fn read_u8(buf: &mut impl Buf) -> Result<u8> {
    let byte = *buf.chunk().first().ok_or(WireError::Truncated)?;
    buf.advance(1);
    Ok(byte)
}

pub fn read_i8(buf: &mut impl Buf) -> Result<i8> {
    buf.try_get_i8().map_err(|_| WireError::Truncated)
}

pub fn read_i16(buf: &mut impl Buf) -> Result<i16> {
    buf.try_get_i16().map_err(|_| WireError::Truncated)
}

pub fn read_i32(buf: &mut impl Buf) -> Result<i32> {
    buf.try_get_i32().map_err(|_| WireError::Truncated)
}

#[inline]
pub fn read_unsigned_varint(buf: &mut impl Buf) -> Result<u32> {
    let mut value = 0;
    for shift in [0, 7, 14, 21, 28] {
        let byte = read_u8(buf)?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::InvalidVarint)
}

#[inline]
fn read_unsigned_varlong(buf: &mut impl Buf) -> Result<u64> {
    let mut value = 0;
    for shift in [0, 7, 14, 21, 28, 35, 42, 49, 56, 63] {
        let byte = read_u8(buf)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::InvalidVarint)
}

/// A zigzag-encoded 32-bit integer.
pub fn read_varint(buf: &mut impl Buf) -> Result<i32> {
    let raw = read_unsigned_varint(buf)?;
    Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// A zigzag-encoded 64-bit integer.
pub fn read_varlong(buf: &mut impl Buf) -> Result<i64> {
    let raw = read_unsigned_varlong(buf)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

/// The length of a string: 16 bits, or a varint of length + 1. `None` is null. In both forms a string has at most
/// [`STRING_BYTES_MAX`] bytes.
pub fn read_string_len(buf: &mut impl Buf, flexible: bool) -> Result<Option<usize>> {
    let len = if flexible { read_compact_len(buf)? } else { usize::try_from(read_i16(buf)?).ok() };
    if len.is_some_and(|len| len > STRING_BYTES_MAX) {
        return Err(WireError::StringTooLong);
    }
    check_len(buf, len)
}

/// The length of a byte field: 32 bits, or a varint of length + 1. `None` is null.
pub fn read_bytes_len(buf: &mut impl Buf, flexible: bool) -> Result<Option<usize>> {
    let len = read_array_len(buf, flexible)?;
    check_len(buf, len)
}

/// The element count that an array claims: 32 bits, or a varint of count + 1. `None` is null. Whoever reserves
/// room for it bounds it with [`reserve_count`].
pub fn read_array_len(buf: &mut impl Buf, flexible: bool) -> Result<Option<usize>> {
    if flexible { read_compact_len(buf) } else { Ok(usize::try_from(read_i32(buf)?).ok()) }
}

fn read_compact_len(buf: &mut impl Buf) -> Result<Option<usize>> {
    Ok(read_unsigned_varint(buf)?.checked_sub(1).map(|len| len as usize))
}

fn check_len(buf: &impl Buf, len: Option<usize>) -> Result<Option<usize>> {
    if len.is_some_and(|len| len > buf.remaining()) { Err(WireError::Truncated) } else { Ok(len) }
}

/// Steps over a section of tagged fields (KIP-482) without reserving anything. `on_field` sees each tag with its
/// content. The buffer must be contiguous, as `Bytes`, `BytesMut` and slices are.
pub fn skip_tagged_fields<E: From<WireError>>(
    buf: &mut impl Buf,
    mut on_field: impl FnMut(u32, &[u8]) -> core::result::Result<(), E>,
) -> core::result::Result<(), E> {
    let count = read_unsigned_varint(buf)?;
    let mut tag_min = 0u64;
    for _ in 0..count {
        let tag = read_unsigned_varint(buf)?;
        if u64::from(tag) < tag_min {
            return Err(WireError::InvalidTags.into());
        }
        tag_min = u64::from(tag) + 1;
        let len = read_unsigned_varint(buf)? as usize;
        let content = buf.chunk().get(..len).ok_or(WireError::Truncated)?;
        on_field(tag, content)?;
        buf.advance(len);
    }
    Ok(())
}

/// How many elements to reserve for an array that claims `count`, of which each takes at least
/// `element_bytes_min` on the wire.
pub fn reserve_count(count: usize, remaining: usize, element_bytes_min: usize) -> usize {
    count.min(remaining / element_bytes_min).min(RESERVED_ELEMENTS_MAX)
}

pub fn write_unsigned_varint(buf: &mut impl BufMut, mut value: u32) {
    while value >= 0x80 {
        buf.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buf.put_u8(value as u8);
}

/// A zigzag-encoded 32-bit integer.
pub fn write_varint(buf: &mut impl BufMut, value: i32) {
    write_unsigned_varint(buf, ((value << 1) ^ (value >> 31)) as u32);
}

/// A zigzag-encoded 64-bit integer.
pub fn write_varlong(buf: &mut impl BufMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        buf.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buf.put_u8(rest as u8);
}

/// Bytes of [`write_varint`].
pub fn varint_len(value: i32) -> usize {
    varlong_len(i64::from(value))
}

/// Bytes of [`write_varlong`].
pub fn varlong_len(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    (70 - (raw | 1).leading_zeros() as usize) / 7
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(small: i32, large: i64, unsigned: u32) {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, small);
            prop_assert_eq!(bytes.len(), varint_len(small));
            write_varlong(&mut bytes, large);
            prop_assert_eq!(bytes.len(), varint_len(small) + varlong_len(large));
            write_unsigned_varint(&mut bytes, unsigned);
            let mut buf = bytes.as_slice();
            prop_assert_eq!(read_varint(&mut buf).unwrap(), small);
            prop_assert_eq!(read_varlong(&mut buf).unwrap(), large);
            prop_assert_eq!(read_unsigned_varint(&mut buf).unwrap(), unsigned);
            prop_assert!(buf.is_empty());
        }
    }

    #[test]
    fn varints_end_after_their_last_byte() {
        assert!(matches!(read_unsigned_varint(&mut [0x80u8; 5].as_slice()), Err(WireError::InvalidVarint)));
        assert!(matches!(read_unsigned_varint(&mut [0x80u8; 4].as_slice()), Err(WireError::Truncated)));
        assert!(matches!(read_varlong(&mut [0xffu8; 10].as_slice()), Err(WireError::InvalidVarint)));
    }

    #[test]
    fn lengths_never_exceed_the_bytes_there() {
        assert!(matches!(
            read_bytes_len(&mut [0x7f, 0xff, 0xff, 0xff, 0].as_slice(), false),
            Err(WireError::Truncated)
        ));
        assert_eq!(read_bytes_len(&mut [0xff; 4].as_slice(), false).unwrap(), None);
        assert_eq!(read_string_len(&mut [0].as_slice(), true).unwrap(), None);
        assert_eq!(read_string_len(&mut [2, b'a'].as_slice(), true).unwrap(), Some(1));
        let mut long = vec![b'a'; STRING_BYTES_MAX + 4];
        long[..3].copy_from_slice(&[0x80, 0x80, 2]);
        assert_eq!(read_string_len(&mut long.as_slice(), true).unwrap(), Some(STRING_BYTES_MAX));
        long[0] += 1;
        assert_eq!(read_string_len(&mut long.as_slice(), true), Err(WireError::StringTooLong));
    }

    #[test]
    fn tags_must_ascend() {
        let seen = |bytes: &[u8]| {
            let mut tags = Vec::new();
            skip_tagged_fields(&mut &bytes[..], |tag, content| {
                tags.push((tag, content.len()));
                Ok::<_, WireError>(())
            })
            .map(|()| tags)
        };
        assert_eq!(seen(&[2, 0, 1, 9, 5, 0]).unwrap(), [(0, 1), (5, 0)]);
        assert!(matches!(seen(&[2, 5, 0, 5, 0]), Err(WireError::InvalidTags)));
        assert!(matches!(seen(&[1, 0, 9, 1]), Err(WireError::Truncated)));
    }
}
