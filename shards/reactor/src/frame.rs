//! Cutting a connection's bytes into requests: four bytes of big-endian length, then as many bytes of frame.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};

/// The first allocation of a frame that arrives in pieces, unless the frame is smaller. Each time it is full it
/// doubles, so a length that a client only claims costs no more than this.
pub(crate) const FRAME_FIRST_BYTES: usize = 64 * 1024;

const LENGTH_BYTES: usize = 4;

/// A frame may be received straight into its allocation from this many missing bytes on. Below, it is cheaper to
/// receive it together with what follows.
const DIRECT_BYTES_MIN: usize = 16 * 1024;

/// A length that no client of this broker may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request claims {claimed} bytes; from 0 to {max} are allowed")]
pub(crate) struct LengthError {
    pub(crate) claimed: i32,
    pub(crate) max: usize,
}

/// What stands between two frames of one connection: at most one that has begun.
///
/// `body.len() ≤ body.capacity() ≤ declared`, and a complete frame is handed out at once.
#[derive(Debug)]
pub(crate) struct FrameAssembler {
    max: usize,
    length: [u8; LENGTH_BYTES],
    length_bytes: usize,
    declared: usize,
    body: Vec<u8>,
}

impl FrameAssembler {
    /// `max`: the longest frame that is taken, without its length.
    pub(crate) fn new(max: usize) -> FrameAssembler {
        FrameAssembler { max, length: [0; LENGTH_BYTES], length_bytes: 0, declared: 0, body: Vec::new() }
    }

    /// The memory that a begun frame takes.
    pub(crate) fn allocated_bytes(&self) -> usize {
        self.body.capacity()
    }

    /// Whether some, but not all bytes of a frame are there.
    pub(crate) fn is_inside_frame(&self) -> bool {
        self.length_bytes > 0
    }

    /// Whether the begun frame will take more than its first allocation.
    pub(crate) fn is_inside_large_frame(&self) -> bool {
        self.length_bytes == LENGTH_BYTES && self.declared > FRAME_FIRST_BYTES
    }

    /// Takes bytes from the front of `input` until a frame is complete or `input` is empty.
    pub(crate) fn take(&mut self, input: &mut &[u8]) -> Result<Option<BytesMut>, LengthError> {
        if self.length_bytes < LENGTH_BYTES && !self.take_length(input)? {
            return Ok(None);
        }
        if self.body.capacity() == 0 && input.len() >= self.declared {
            let (frame, rest) = input.split_at(self.declared);
            *input = rest;
            self.length_bytes = 0;
            return Ok(Some(BytesMut::from(frame)));
        }
        while !input.is_empty() && self.body.len() < self.declared {
            self.ensure_room();
            let (now, rest) = input.split_at(input.len().min(self.body.capacity() - self.body.len()));
            self.body.extend_from_slice(now);
            *input = rest;
        }
        Ok(self.take_complete())
    }

    /// Where the next bytes of a large begun frame can be received without a copy; `None` when it should come
    /// through a buffer.
    pub(crate) fn room(&mut self) -> Option<&mut [MaybeUninit<u8>]> {
        let is_direct = self.length_bytes == LENGTH_BYTES
            && self.body.capacity() > 0
            && self.declared - self.body.len() >= DIRECT_BYTES_MIN;
        is_direct.then(|| {
            self.ensure_room();
            self.body.spare_capacity_mut()
        })
    }

    /// Says that the first `bytes` of [`FrameAssembler::room`] were filled, and hands out the frame if that
    /// completes it.
    ///
    /// # Safety
    ///
    /// The first `bytes` bytes of the slice that `room` returned last are initialised.
    pub(crate) unsafe fn filled(&mut self, bytes: usize) -> Option<BytesMut> {
        assert!(
            bytes <= self.body.capacity() - self.body.len(),
            "no more was received than there was room for"
        );
        // SAFETY: by the caller's word the `bytes` bytes behind the length are initialised, and they lie within
        // the capacity by the assertion above.
        unsafe { self.body.set_len(self.body.len() + bytes) };
        self.take_complete()
    }

    /// Whether the length is complete now.
    fn take_length(&mut self, input: &mut &[u8]) -> Result<bool, LengthError> {
        let (now, rest) = input.split_at(input.len().min(LENGTH_BYTES - self.length_bytes));
        self.length[self.length_bytes..][..now.len()].copy_from_slice(now);
        self.length_bytes += now.len();
        *input = rest;
        if self.length_bytes < LENGTH_BYTES {
            return Ok(false);
        }
        let claimed = i32::from_be_bytes(self.length);
        match usize::try_from(claimed) {
            Ok(declared) if declared <= self.max => {
                self.declared = declared;
                Ok(true)
            }
            _ => Err(LengthError { claimed, max: self.max }),
        }
    }

    fn ensure_room(&mut self) {
        let capacity = self.body.capacity();
        if self.body.len() == capacity {
            let wanted = self.declared.min(FRAME_FIRST_BYTES.max(2 * capacity));
            self.body.reserve_exact(wanted - capacity);
        }
    }

    fn take_complete(&mut self) -> Option<BytesMut> {
        if self.length_bytes < LENGTH_BYTES || self.body.len() < self.declared {
            return None;
        }
        self.length_bytes = 0;
        // The vector becomes the frame's own allocation, without a copy.
        Some(BytesMut::from(Bytes::from(std::mem::take(&mut self.body))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for frame in frames {
            wire.extend_from_slice(&u32::try_from(frame.len()).expect("small").to_be_bytes());
            wire.extend_from_slice(frame);
        }
        wire
    }

    fn patterned(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
    }

    /// Feeds the pieces as a connection would: directly where the assembler offers room.
    fn assemble(wire: &[u8], piece_bytes: usize) -> Vec<Vec<u8>> {
        let mut assembler = FrameAssembler::new(1 << 24);
        let mut frames = Vec::new();
        let mut rest = wire;
        while !rest.is_empty() {
            if let Some(room) = assembler.room() {
                let bytes = room.len().min(piece_bytes).min(rest.len());
                for (slot, byte) in room.iter_mut().zip(&rest[..bytes]) {
                    slot.write(*byte);
                }
                rest = &rest[bytes..];
                // SAFETY: the loop above wrote the first `bytes` slots.
                frames.extend(unsafe { assembler.filled(bytes) });
            } else {
                let (mut piece, behind) = rest.split_at(piece_bytes.min(rest.len()));
                rest = behind;
                while !piece.is_empty() {
                    frames.extend(assembler.take(&mut piece).expect("lengths are right"));
                }
            }
            assert!(assembler.allocated_bytes() <= 1 << 24);
        }
        assert!(!assembler.is_inside_frame());
        frames.into_iter().map(|frame| frame.to_vec()).collect()
    }

    #[test]
    fn frames_survive_any_cut() {
        let frames = vec![patterned(5), patterned(0), patterned(1), patterned(40)];
        let wire = encode(&frames);
        for piece_bytes in 1..=wire.len() {
            assert_eq!(assemble(&wire, piece_bytes), frames, "pieces of {piece_bytes}");
        }
        for cut in 0..=wire.len() {
            let mut assembler = FrameAssembler::new(100);
            let mut found = Vec::new();
            for mut piece in [&wire[..cut], &wire[cut..]] {
                while let Some(frame) = assembler.take(&mut piece).expect("lengths are right") {
                    found.push(frame.to_vec());
                }
                assert!(piece.is_empty());
            }
            assert_eq!(found, frames, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_frames_survive_any_cuts(
            lengths in proptest::collection::vec(0..200_000usize, 0..6),
            piece_bytes in 1..300_000usize,
        ) {
            let frames: Vec<_> = lengths.into_iter().map(patterned).collect();
            prop_assert!(assemble(&encode(&frames), piece_bytes) == frames);
        }

        #[test]
        fn garbage_is_framed_or_refused(garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut assembler = FrameAssembler::new(64);
            let mut rest = garbage.as_slice();
            while let Ok(Some(frame)) = assembler.take(&mut rest) {
                prop_assert!(frame.len() <= 64);
            }
            prop_assert!(assembler.allocated_bytes() <= 64);
        }
    }

    #[test]
    fn large_frames_are_whole_and_exact() {
        for bytes in [FRAME_FIRST_BYTES - 1, FRAME_FIRST_BYTES, FRAME_FIRST_BYTES + 1, 1_000_003] {
            let frames = vec![patterned(bytes), patterned(7)];
            for piece_bytes in [1_000, 65_536, 300_000] {
                assert_eq!(assemble(&encode(&frames), piece_bytes), frames);
            }
        }
    }

    #[test]
    fn a_frame_is_alone_in_an_allocation_of_its_size() {
        let wire = encode(&[patterned(200_000)]);
        let mut assembler = FrameAssembler::new(1 << 20);
        let mut frame = None;
        for mut piece in wire.chunks(10_000) {
            frame = frame.or(assembler.take(&mut piece).expect("right length"));
        }
        let frame = frame.expect("complete");
        assert_eq!((frame.len(), frame.capacity()), (200_000, 200_000));
    }

    #[test]
    fn memory_follows_the_bytes_that_arrived() {
        let mut assembler = FrameAssembler::new(100 << 20);
        let mut wire = (100u32 << 20).to_be_bytes().to_vec();
        assert_eq!(assembler.take(&mut wire.as_slice()), Ok(None));
        assert_eq!(assembler.allocated_bytes(), 0, "a length alone takes nothing");
        wire = vec![1];
        assert_eq!(assembler.take(&mut wire.as_slice()), Ok(None));
        assert_eq!(assembler.allocated_bytes(), FRAME_FIRST_BYTES);
        wire = vec![1; 3 * FRAME_FIRST_BYTES];
        assert_eq!(assembler.take(&mut wire.as_slice()), Ok(None));
        assert_eq!(assembler.allocated_bytes(), 4 * FRAME_FIRST_BYTES);
    }

    #[test]
    fn hostile_lengths_are_refused() {
        for (length, claimed) in [
            ([0xff; 4], -1),
            ([0x80, 0, 0, 0], i32::MIN),
            ([0x7f, 0xff, 0xff, 0xff], i32::MAX),
            ([0, 0, 4, 1], 1025),
            (*b"GET ", 0x4745_5420),
        ] {
            let mut assembler = FrameAssembler::new(1024);
            assert_eq!(assembler.take(&mut length.as_slice()), Err(LengthError { claimed, max: 1024 }));
            assert_eq!(assembler.allocated_bytes(), 0);
        }
        let mut assembler = FrameAssembler::new(1024);
        assert_eq!(assembler.take(&mut [0u8, 0, 4, 0].as_slice()), Ok(None), "the maximum itself is allowed");
    }
}
