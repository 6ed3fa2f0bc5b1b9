//! Frames between two nodes: the body's length, its CRC-32, the CRC-32 of these eight bytes, all little-endian, then the
//! body. A wrong length must not be believed: on a quiet connection its receiver would wait for the rest for hours, deaf to
//! what follows.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use types::limits::PEER_FRAME_BYTES_MAX;

use crate::frame::FrameAssembler;

const CHECKED_HEADER_BYTES: usize = 8;
const HEADER_BYTES: usize = CHECKED_HEADER_BYTES + 4;

// The assembler of bodies counts in 32 bits with a sign.
const _: () = assert!(PEER_FRAME_BYTES_MAX <= i32::MAX as usize);

/// What no node of this version sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerFrameError {
    #[error("a frame claims {claimed} bytes; at most {PEER_FRAME_BYTES_MAX} are allowed")]
    Length { claimed: u32 },
    #[error("the header of a frame does not match its checksum")]
    Header,
    #[error("a frame of {bytes} bytes does not match its checksum")]
    Checksum { bytes: usize },
}

/// The header of a frame with this body.
pub(crate) fn frame_header(body: &[Bytes]) -> Bytes {
    let mut checksum = crc32fast::Hasher::new();
    for part in body {
        checksum.update(part);
    }
    let length: usize = body.iter().map(Bytes::len).sum();
    assert!(length <= PEER_FRAME_BYTES_MAX, "a shard gives no frame that its receiver refuses");
    let length = u32::try_from(length).expect("the bound fits");
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..8].copy_from_slice(&checksum.finalize().to_le_bytes());
    let checksum = crc32fast::hash(&header[..CHECKED_HEADER_BYTES]);
    header[CHECKED_HEADER_BYTES..].copy_from_slice(&checksum.to_le_bytes());
    Bytes::copy_from_slice(&header)
}

/// Cuts what one connection brings into frames; memory follows the bytes that arrived.
#[derive(Debug)]
pub(crate) struct PeerFrames {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    body: FrameAssembler,
}

impl PeerFrames {
    pub(crate) fn new() -> PeerFrames {
        PeerFrames {
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            body: FrameAssembler::new(PEER_FRAME_BYTES_MAX),
        }
    }

    /// Takes bytes from the front of `input` until a body is complete or `input` is empty.
    pub(crate) fn take(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, PeerFrameError> {
        if self.header_bytes < HEADER_BYTES {
            let (now, rest) = input.split_at(input.len().min(HEADER_BYTES - self.header_bytes));
            self.header[self.header_bytes..][..now.len()].copy_from_slice(now);
            self.header_bytes += now.len();
            *input = rest;
            if self.header_bytes < HEADER_BYTES {
                return Ok(None);
            }
            if crc32fast::hash(&self.header[..CHECKED_HEADER_BYTES]) != self.header_word(CHECKED_HEADER_BYTES)
            {
                return Err(PeerFrameError::Header);
            }
            let claimed = self.header_word(0);
            if claimed as usize > PEER_FRAME_BYTES_MAX {
                return Err(PeerFrameError::Length { claimed });
            }
            if let Some(body) = self.take_body(&mut claimed.to_be_bytes().as_slice()) {
                return self.check(body).map(Some);
            }
        }
        self.take_body(input).map(|body| self.check(body)).transpose()
    }

    /// See [`FrameAssembler::room`].
    pub(crate) fn room(&mut self) -> Option<&mut [MaybeUninit<u8>]> {
        self.body.room()
    }

    /// See [`FrameAssembler::filled`].
    ///
    /// # Safety
    ///
    /// The first `bytes` bytes of the slice that `room` returned last are initialised.
    pub(crate) unsafe fn filled(&mut self, bytes: usize) -> Result<Option<Bytes>, PeerFrameError> {
        // SAFETY: by the caller's word; `room` is that of the same assembler.
        let body = unsafe { self.body.filled(bytes) };
        body.map(|body| self.check(body)).transpose()
    }

    fn take_body(&mut self, input: &mut &[u8]) -> Option<BytesMut> {
        self.body.take(input).expect("the length was checked before the assembler was told")
    }

    fn check(&mut self, body: BytesMut) -> Result<Bytes, PeerFrameError> {
        self.header_bytes = 0;
        if crc32fast::hash(&body) != self.header_word(4) {
            return Err(PeerFrameError::Checksum { bytes: body.len() });
        }
        Ok(body.freeze())
    }

    fn header_word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.header[at..at + 4].try_into().expect("four bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for body in bodies {
            let (front, back) = body.split_at(body.len() / 3);
            let parts = [Bytes::copy_from_slice(front), Bytes::copy_from_slice(back)];
            wire.extend_from_slice(&frame_header(&parts));
            wire.extend_from_slice(body);
        }
        wire
    }

    fn patterned(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[test]
    fn frames_survive_any_cut() {
        let bodies = vec![patterned(5), patterned(0), patterned(1), patterned(40), patterned(0)];
        let wire = encode(&bodies);
        for piece_bytes in 1..=wire.len() {
            let mut frames = PeerFrames::new();
            let mut found = Vec::new();
            for mut piece in wire.chunks(piece_bytes) {
                while !piece.is_empty() {
                    found.extend(frames.take(&mut piece).expect("well-formed").map(|body| body.to_vec()));
                }
            }
            assert_eq!(found, bodies, "pieces of {piece_bytes}");
        }
    }

    #[test]
    fn bodies_may_be_received_in_place() {
        let bodies = vec![patterned(300_000), patterned(7)];
        let wire = encode(&bodies);
        let mut frames = PeerFrames::new();
        let mut found = Vec::new();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            if let Some(room) = frames.room() {
                let bytes = room.len().min(50_000).min(rest.len());
                for (slot, byte) in room.iter_mut().zip(&rest[..bytes]) {
                    slot.write(*byte);
                }
                rest = &rest[bytes..];
                // SAFETY: the loop above wrote the first `bytes` slots.
                found.extend(unsafe { frames.filled(bytes) }.expect("well-formed"));
            } else {
                let (mut piece, behind) = rest.split_at(rest.len().min(10_000));
                rest = behind;
                while !piece.is_empty() {
                    found.extend(frames.take(&mut piece).expect("well-formed"));
                }
            }
        }
        assert!(found == bodies);
    }

    #[test]
    fn any_flipped_bit_is_noticed_before_the_frame_ends() {
        let wire = encode(&[patterned(9)]);
        for bit in 0..8 * wire.len() {
            let mut flipped = wire.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let taken = PeerFrames::new().take(&mut flipped.as_slice());
            assert!(taken.is_err(), "bit {bit}: {taken:?}");
        }
    }

    #[test]
    fn a_length_over_the_bound_reserves_nothing() {
        for claimed in [PEER_FRAME_BYTES_MAX as u32 + 1, u32::MAX, 1 << 31] {
            let mut frames = PeerFrames::new();
            let mut wire = claimed.to_le_bytes().to_vec();
            wire.extend([0; 4]);
            wire.extend(crc32fast::hash(&wire).to_le_bytes());
            assert_eq!(frames.take(&mut wire.as_slice()), Err(PeerFrameError::Length { claimed }));
            assert_eq!(frames.body.allocated_bytes(), 0);
        }
    }
}
