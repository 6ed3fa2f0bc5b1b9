//! Compression of the records of a batch, and bounded inflation.

use std::io::{Read, Write};

use bytes::{Buf, Bytes};

use crate::{batch::CODEC_BITS, error::BatchError};

/// How the records of a batch are compressed. The number is that of the attributes and of Kafka's
/// `CompressionType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy, framed as snappy-java does or as one raw block, which librdkafka and others send.
    Snappy = 2,
    /// An LZ4 frame.
    Lz4 = 3,
    /// Zstandard (KIP-110). Only clients that know Produce 7 and Fetch 10 may see it.
    Zstd = 4,
}

/// What snappy-java writes before its blocks: a magic, version 1 and compatible version 1.
const SNAPPY_JAVA_HEADER: [u8; 16] = *b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";
const SNAPPY_JAVA_MAGIC_BYTES: usize = 8;
/// snappy-java's default block.
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;
/// A Snappy element of three bytes stands for at most 64: what claims to inflate more than this is damaged.
const SNAPPY_RATIO_MAX: usize = 22;
/// The largest window that zstd's own decoder takes by default; level 22 writes it.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Kafka's default level.
const ZSTD_LEVEL: i32 = 3;

impl Codec {
    /// Every codec.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec that a batch's attributes name.
    ///
    /// # Errors
    ///
    /// [`BatchError::UnknownCodec`] for 5 to 7.
    pub fn from_attributes(attributes: i16) -> Result<Codec, BatchError> {
        let id = (attributes & CODEC_BITS) as u8;
        Codec::ALL.get(usize::from(id)).copied().ok_or(BatchError::UnknownCodec { id })
    }

    /// Inflates without trusting any size that the data claims. Memory follows what was really inflated, up to
    /// `bytes_max`, beside a decoder's window: 4 MiB for LZ4, 128 MiB of address space for zstd.
    pub(super) fn decompress(self, bytes: Bytes, bytes_max: usize) -> Result<Bytes, BatchError> {
        match self {
            Codec::None if bytes.len() > bytes_max => Err(BatchError::DecompressedTooLarge { bytes_max }),
            Codec::None => Ok(bytes),
            Codec::Gzip => self.read_bounded(flate2::read::MultiGzDecoder::new(&bytes[..]), bytes_max),
            Codec::Snappy => decompress_snappy(&bytes, bytes_max),
            Codec::Lz4 => self.read_bounded(lz4_flex::frame::FrameDecoder::new(&bytes[..]), bytes_max),
            Codec::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(&bytes[..]).map_err(|_| self.damaged())?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|_| self.damaged())?;
                self.read_bounded(decoder, bytes_max)
            }
        }
    }

    fn read_bounded(self, reader: impl Read, bytes_max: usize) -> Result<Bytes, BatchError> {
        let mut inflated = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        reader.take(limit).read_to_end(&mut inflated).map_err(|_| self.damaged())?;
        if inflated.len() > bytes_max {
            return Err(BatchError::DecompressedTooLarge { bytes_max });
        }
        Ok(Bytes::from(inflated))
    }

    fn damaged(self) -> BatchError {
        BatchError::Decompression { codec: self }
    }

    /// Compresses what we wrote ourselves, as Kafka's Java client does.
    pub(super) fn compress(self, bytes: &[u8]) -> Vec<u8> {
        let compressed = match self {
            Codec::None => Ok(bytes.to_vec()),
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes).and_then(|()| encoder.finish())
            }
            Codec::Snappy => Ok(compress_snappy(bytes)),
            Codec::Lz4 => {
                let frame = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
                encoder.write_all(bytes).and_then(|()| encoder.finish().map_err(Into::into))
            }
            Codec::Zstd => zstd::stream::encode_all(bytes, ZSTD_LEVEL),
        };
        compressed.expect("writing to memory does not fail")
    }
}

fn decompress_snappy(bytes: &[u8], bytes_max: usize) -> Result<Bytes, BatchError> {
    let mut inflated = Vec::new();
    if !bytes.starts_with(&SNAPPY_JAVA_HEADER[..SNAPPY_JAVA_MAGIC_BYTES]) {
        append_snappy_block(&mut inflated, bytes, bytes_max)?;
        return Ok(Bytes::from(inflated));
    }
    let mut blocks = bytes.get(SNAPPY_JAVA_HEADER.len()..).ok_or(Codec::Snappy.damaged())?;
    while !blocks.is_empty() {
        let len = blocks.try_get_i32().map_err(|_| Codec::Snappy.damaged())?;
        let block = usize::try_from(len).ok().and_then(|len| blocks.split_off(..len));
        append_snappy_block(&mut inflated, block.ok_or(Codec::Snappy.damaged())?, bytes_max)?;
    }
    Ok(Bytes::from(inflated))
}

fn append_snappy_block(inflated: &mut Vec<u8>, block: &[u8], bytes_max: usize) -> Result<(), BatchError> {
    let claimed = snap::raw::decompress_len(block).map_err(|_| Codec::Snappy.damaged())?;
    if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(Codec::Snappy.damaged());
    }
    if claimed > bytes_max - inflated.len() {
        return Err(BatchError::DecompressedTooLarge { bytes_max });
    }
    let start = inflated.len();
    inflated.resize(start + claimed, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut inflated[start..]);
    if written.is_ok_and(|written| written == claimed) { Ok(()) } else { Err(Codec::Snappy.damaged()) }
}

fn compress_snappy(bytes: &[u8]) -> Vec<u8> {
    let mut framed = SNAPPY_JAVA_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in bytes.chunks(SNAPPY_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).expect("a block of 32 KiB is not too large");
        framed.extend_from_slice(&(compressed.len() as i32).to_be_bytes());
        framed.extend_from_slice(&compressed);
    }
    framed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn bombs_stop_at_the_bound() {
        let zeros = vec![0; 8 * MIB];
        for codec in Codec::ALL {
            let compressed = Bytes::from(codec.compress(&zeros));
            assert_eq!(
                codec.decompress(compressed.clone(), MIB),
                Err(BatchError::DecompressedTooLarge { bytes_max: MIB }),
                "{codec:?}"
            );
            assert_eq!(
                codec.decompress(compressed.clone(), zeros.len() - 1),
                Err(BatchError::DecompressedTooLarge { bytes_max: zeros.len() - 1 }),
                "{codec:?}"
            );
            assert_eq!(codec.decompress(compressed, zeros.len()).unwrap(), zeros, "{codec:?}");
        }
    }

    #[test]
    fn a_claimed_snappy_size_is_not_trusted() {
        let claims_64_mib = [0x80, 0x80, 0x80, 0x20, 0];
        let damaged = Err(Codec::Snappy.damaged());
        assert_eq!(Codec::Snappy.decompress(Bytes::copy_from_slice(&claims_64_mib), 128 * MIB), damaged);
    }

    #[test]
    fn raw_snappy_is_read_too() {
        let raw = snap::raw::Encoder::new().compress_vec(b"raw blocks of librdkafka").unwrap();
        assert_eq!(
            Codec::Snappy.decompress(Bytes::from(raw), MIB).unwrap(),
            &b"raw blocks of librdkafka"[..]
        );
    }

    #[test]
    fn the_highest_zstd_level_is_read() {
        let text = b"level 22 has the largest window".repeat(100);
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 22).unwrap();
        encoder.write_all(&text).unwrap();
        let compressed = encoder.finish().unwrap();
        assert_eq!(Codec::Zstd.decompress(Bytes::from(compressed), MIB).unwrap(), text);
    }

    proptest! {
        #[test]
        fn codecs_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..100_000), codec in 0..5usize) {
            let codec = Codec::ALL[codec];
            let compressed = Bytes::from(codec.compress(&bytes));
            prop_assert_eq!(codec.decompress(compressed, bytes.len()).unwrap(), bytes);
        }

        #[test]
        fn damage_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..5_000),
            codec in 0..5usize,
            at: prop::sample::Index,
            flip in 1..=255u8,
        ) {
            let codec = Codec::ALL[codec];
            let _ = codec.decompress(Bytes::from(bytes.clone()), MIB);
            let mut compressed = codec.compress(&bytes);
            if !compressed.is_empty() {
                let position = at.index(compressed.len());
                compressed[position] ^= flip;
            }
            let inflated = codec.decompress(Bytes::from(compressed), MIB);
            prop_assert!(inflated.is_err() || inflated.is_ok_and(|inflated| inflated.len() <= MIB));
        }
    }
}
