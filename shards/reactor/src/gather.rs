//! Copying a row of byte strings into buffers of another size.

use bytes::{Buf, Bytes};

/// A row of byte strings that is copied out from the front.
#[derive(Debug)]
pub(crate) struct Gather {
    parts: std::vec::IntoIter<Bytes>,
    front: Bytes,
    left: usize,
}

impl Gather {
    pub(crate) fn new(parts: Vec<Bytes>) -> Gather {
        let left = parts.iter().map(Bytes::len).sum();
        Gather { parts: parts.into_iter(), front: Bytes::new(), left }
    }

    /// The bytes that were not copied out yet.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Fills the buffer: with what is left, then with zeroes.
    pub(crate) fn fill(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            if self.front.is_empty() {
                match self.parts.next() {
                    Some(part) => self.front = part,
                    None => return buffer.fill(0),
                }
                continue;
            }
            let bytes = buffer.len().min(self.front.len());
            let (now, behind) = buffer.split_at_mut(bytes);
            now.copy_from_slice(&self.front[..bytes]);
            self.front.advance(bytes);
            self.left -= bytes;
            buffer = behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_out_in_order_whatever_the_buffers() {
        let parts =
            vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defgh"), Bytes::new()];
        for buffer_bytes in 1..12 {
            let mut gather = Gather::new(parts.clone());
            let mut copied = Vec::new();
            while gather.left() > 0 {
                let mut buffer = vec![0xff; buffer_bytes];
                gather.fill(&mut buffer);
                copied.extend(buffer);
            }
            let (text, padding) = copied.split_at(8);
            assert_eq!(text, b"abcdefgh");
            assert!(padding.len() < buffer_bytes && padding.iter().all(|byte| *byte == 0));
        }
    }
}
