//! Direct reads and writes of many blocks: in requests of bounded size, several under way at once.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::Task;
use glommio::io::{DmaBuffer, DmaFile, ReadResult};
use glommio::timer::Timer;
use types::limits::{BLOCK_BYTES, DISK_REQUEST_BYTES_MAX};

use crate::gather::Gather;
use crate::io_failure::IoFailure;
use crate::wal_progress::WalProgress;

/// Requests of one read or write that are under way at once. Enough to keep a device busy, few enough that the
/// WAL's next write does not queue behind many.
const REQUESTS_MAX: usize = 4;

/// What one request of [`write_gently`] takes.
const GENTLE_REQUEST_BYTES: usize = DISK_REQUEST_BYTES_MAX / 4;

/// How many times as long as a write the rest after it is, so that most writes to the WAL meet none.
const RESTS: u32 = 4;
const GENTLE_REST_MAX: Duration = Duration::from_millis(10);

/// A WAL that fills faster leaves no time to rest: what is not written to segments stays in memory, and in WAL files.
const GENTLE_WAL_BYTES_PER_SECOND_MAX: u64 = 32 * 1024 * 1024;

/// As [`write_blocks`], in small requests with rests between them while the WAL fills slowly. Its writes, which somebody waits for, queue
/// behind little then, and what the device has to flush with them is little.
pub(crate) async fn write_gently(
    file: &Rc<DmaFile>,
    mut position: u64,
    mut gather: Gather,
    wal: &WalProgress,
) -> Result<(), IoFailure> {
    assert!(position.is_multiple_of(BLOCK_BYTES as u64), "direct writes are aligned");
    while gather.left() > 0 {
        let begun = Instant::now();
        if wal.bytes_per_second(begun) > GENTLE_WAL_BYTES_PER_SECOND_MAX {
            return write_blocks(file, position, gather).await;
        }
        let bytes = gather.left().next_multiple_of(BLOCK_BYTES).min(GENTLE_REQUEST_BYTES);
        let mut buffer = file.alloc_dma_buffer(bytes);
        gather.fill(buffer.as_bytes_mut());
        write_buffer(Rc::clone(file), position, buffer).await?;
        position += bytes as u64;
        if gather.left() > 0 {
            rest_after(begun, GENTLE_REST_MAX).await;
        }
    }
    Ok(())
}

/// Rests in proportion to what has been written since then.
pub(crate) async fn rest_after(begun: Instant, rest_max: Duration) {
    Timer::new((RESTS * begun.elapsed()).min(rest_max)).await;
}

async fn write_buffer(file: Rc<DmaFile>, position: u64, buffer: DmaBuffer) -> Result<(), IoFailure> {
    let bytes = buffer.len();
    match file.write_at(buffer, position).await? {
        written if written == bytes => Ok(()),
        // What a full disk does to a direct write that begins before its end.
        _ => Err(std::io::Error::from_raw_os_error(libc::ENOSPC).into()),
    }
}

/// Writes what `gather` holds, padded with zeroes to whole blocks, from `position` on. The position is a multiple of
/// [`BLOCK_BYTES`]. When it fails, any of the blocks may have been written.
pub(crate) async fn write_blocks(
    file: &Rc<DmaFile>,
    position: u64,
    mut gather: Gather,
) -> Result<(), IoFailure> {
    assert!(position.is_multiple_of(BLOCK_BYTES as u64), "direct writes are aligned");
    let mut next_position = position;
    let mut next_request = || {
        let bytes = gather.left().next_multiple_of(BLOCK_BYTES).min(DISK_REQUEST_BYTES_MAX);
        (bytes > 0).then(|| {
            let mut buffer = file.alloc_dma_buffer(bytes);
            gather.fill(buffer.as_bytes_mut());
            let at = next_position;
            next_position += bytes as u64;
            (buffer, at)
        })
    };
    let mut under_way: VecDeque<Task<Result<(), IoFailure>>> = VecDeque::new();
    loop {
        while under_way.len() < REQUESTS_MAX
            && let Some((buffer, at)) = next_request()
        {
            under_way.push_back(glommio::spawn_local(write_buffer(Rc::clone(file), at, buffer)));
        }
        match under_way.pop_front() {
            Some(request) => request.await?,
            None => return Ok(()),
        }
    }
}

/// Reads `length` bytes from `position` on, or fewer at the end of the file.
pub(crate) async fn read_bytes(
    file: &Rc<DmaFile>,
    position: u64,
    length: usize,
) -> Result<Vec<u8>, IoFailure> {
    let skip = position % BLOCK_BYTES as u64;
    let wanted = skip as usize + length;
    let mut next_position = position - skip;
    let end = next_position + wanted.next_multiple_of(BLOCK_BYTES) as u64;
    let mut under_way: VecDeque<(usize, Task<Result<ReadResult, IoFailure>>)> = VecDeque::new();
    let mut found = Vec::new();
    loop {
        while under_way.len() < REQUESTS_MAX && next_position < end {
            let bytes = (end - next_position).min(DISK_REQUEST_BYTES_MAX as u64) as usize;
            let (file, at) = (Rc::clone(file), next_position);
            next_position += bytes as u64;
            let request = glommio::spawn_local(async move { Ok(file.read_at_aligned(at, bytes).await?) });
            under_way.push_back((bytes, request));
        }
        let Some((bytes, request)) = under_way.pop_front() else { break };
        let result = request.await?;
        if found.is_empty() {
            found.reserve_exact(length);
            found.extend_from_slice(result.get(skip as usize..).unwrap_or_default());
        } else {
            found.extend_from_slice(&result);
        }
        if result.len() < bytes {
            break;
        }
    }
    found.truncate(length);
    Ok(found)
}

const _: () = assert!(GENTLE_REQUEST_BYTES.is_multiple_of(BLOCK_BYTES));
