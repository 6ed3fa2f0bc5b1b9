//! The least that is done for a request: a round trip of the client's, and a leader that passes the request on and writes,
//! beside followers that write and acknowledge, until a majority has written. The leader is the client's own thread, so
//! that it is awake; each follower is a thread with blocking calls, a file and a socket of its own.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::sys::{Interest, poll};

const BLOCK_BYTES: usize = 4096;
const PROBE_FILE_BYTES: usize = 16 << 20;
/// About what a Produce of one partition is answered with, and an append is acknowledged with.
const RESPONSE_BYTES: usize = 64;

/// A server that answers, and the replicas of a request.
#[derive(Debug)]
pub(super) struct Replicas {
    request: Vec<u8>,
    /// `None` once it is to end.
    server: Option<TcpStream>,
    disk: WrittenFile,
    followers: Vec<Follower>,
    requests: u64,
    failures: (Sender<io::Error>, Receiver<io::Error>),
    threads: Vec<JoinHandle<()>>,
    #[cfg(test)]
    pub(super) files: Vec<PathBuf>,
}

/// A follower as its leader knows it.
#[derive(Debug)]
struct Follower {
    socket: TcpStream,
    /// Requests that it has written. It acknowledges each one, in their order.
    acknowledged: u64,
}

/// What one request took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    /// From the request until a majority had written it.
    pub(super) total: Duration,
    /// The leader's own write, which is a part of it.
    pub(super) leader_write: Duration,
}

impl Replicas {
    /// Prepares a file for each in the directory, and starts them.
    pub(super) fn start(directory: &Path, request_bytes: usize, count: usize) -> io::Result<Replicas> {
        let disk = WrittenFile::new(directory)?;
        let (client, served) = connection()?;
        let mut replicas = Replicas {
            request: vec![2; request_bytes],
            server: Some(client),
            #[cfg(test)]
            files: vec![disk.path.clone()],
            disk,
            followers: Vec::new(),
            requests: 0,
            failures: channel(),
            threads: Vec::new(),
        };
        replicas.spawn(move || answer_each(served, request_bytes, || Ok(())));
        for _ in 1..count {
            let mut disk = WrittenFile::new(directory)?;
            #[cfg(test)]
            replicas.files.push(disk.path.clone());
            let (leader, follower) = connection()?;
            replicas.followers.push(Follower { socket: leader, acknowledged: 0 });
            replicas.spawn(move || answer_each(follower, request_bytes, || disk.write_block()));
        }
        Ok(replicas)
    }

    fn spawn(&mut self, work: impl FnOnce() -> io::Result<()> + Send + 'static) {
        let failed = self.failures.0.clone();
        self.threads.push(std::thread::spawn(move || {
            if let Err(error) = work() {
                // The other end lives until this thread has been joined.
                let _ = failed.send(error);
            }
        }));
    }

    /// One request, until a majority has written it. An error is that of the replica that failed first.
    pub(super) fn request(&mut self) -> io::Result<Answered> {
        self.exchange().map_err(|error| {
            // A thread says what it met before its socket closes, which is what the client sees.
            self.failures.1.try_recv().unwrap_or(error)
        })
    }

    fn exchange(&mut self) -> io::Result<Answered> {
        let server = self.server.as_mut().expect("the connection is there until the drop");
        let begun = Instant::now();
        server.write_all(&self.request)?;
        server.read_exact(&mut [0; RESPONSE_BYTES])?;
        for follower in &mut self.followers {
            follower.socket.write_all(&self.request)?;
        }
        self.requests += 1;
        let writing = Instant::now();
        self.disk.write_block()?;
        let leader_write = writing.elapsed();
        while !self.has_majority() {
            self.read_acknowledgements()?;
        }
        Ok(Answered { total: begun.elapsed(), leader_write })
    }

    /// Whether enough followers have written the last request, which the leader has.
    fn has_majority(&self) -> bool {
        let written = self.followers.iter().filter(|follower| follower.acknowledged >= self.requests);
        written.count() >= self.followers.len().div_ceil(2)
    }

    /// Waits for followers, and takes one acknowledgement of each that has sent some.
    fn read_acknowledgements(&mut self) -> io::Result<()> {
        let interest = |follower: &Follower| Interest::new(follower.socket.as_fd(), false);
        let mut interests: Vec<Interest> = self.followers.iter().map(interest).collect();
        poll(&mut interests, Duration::from_secs(1))?;
        for (follower, interest) in self.followers.iter_mut().zip(interests) {
            if interest.is_readable() {
                follower.socket.read_exact(&mut [0; RESPONSE_BYTES])?;
                follower.acknowledged += 1;
            }
        }
        Ok(())
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        // The threads end with their connections.
        drop(self.server.take());
        self.followers.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Does its work for each request of a known length and answers, until the connection ends.
fn answer_each(
    mut socket: TcpStream,
    request_bytes: usize,
    mut work: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut request = vec![0; request_bytes];
    loop {
        match socket.read_exact(&mut request) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        work()?;
        socket.write_all(&[1; RESPONSE_BYTES])?;
    }
}

/// A file whose blocks are written once, so that overwriting them needs no change of the file system's metadata.
#[derive(Debug)]
struct WrittenFile {
    path: PathBuf,
    file: File,
    /// One block, and as much again to align it in.
    buffer: Vec<u8>,
    block_at: usize,
    next_offset: u64,
}

impl WrittenFile {
    fn new(directory: &Path) -> io::Result<WrittenFile> {
        static FILES: AtomicU64 = AtomicU64::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("chronik-bench-floor-{}-{number}", std::process::id()));
        let created = Self::prepare(&path);
        if created.is_err() {
            let _ = fs::remove_file(&path);
        }
        let file = created?;
        let buffer = vec![0x5a; 2 * BLOCK_BYTES];
        let block_at = buffer.as_ptr().align_offset(BLOCK_BYTES);
        assert!(block_at <= BLOCK_BYTES, "an aligned block lies in twice its size");
        Ok(WrittenFile { path, file, buffer, block_at, next_offset: 0 })
    }

    fn prepare(path: &Path) -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(&vec![0xa5; PROBE_FILE_BYTES])?;
        file.sync_all()?;
        OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path)
    }

    /// Writes one block behind the last one; it is durable then.
    fn write_block(&mut self) -> io::Result<()> {
        let block = &self.buffer[self.block_at..self.block_at + BLOCK_BYTES];
        self.file.write_all_at(block, self.next_offset)?;
        self.next_offset = (self.next_offset + BLOCK_BYTES as u64) % PROBE_FILE_BYTES as u64;
        Ok(())
    }
}

impl Drop for WrittenFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> PathBuf {
        std::env::current_exe().unwrap().parent().unwrap().to_owned()
    }

    #[test]
    fn a_request_is_over_when_a_majority_has_written_it() {
        for count in [1, 2, 3, 5] {
            let mut replicas = Replicas::start(&here(), 200, count).unwrap();
            assert_eq!(replicas.files.len(), count);
            for _ in 0..3 {
                let answered = replicas.request().unwrap();
                assert!(answered.leader_write > Duration::ZERO && answered.total > answered.leader_write);
            }
            let written: Vec<u64> = replicas.files.iter().map(|path| blocks_written(path)).collect();
            assert!(2 * written.iter().filter(|&&blocks| blocks == 3).count() > count, "{written:?}");
            let files = replicas.files.clone();
            drop(replicas);
            assert!(files.iter().all(|path| !path.exists()));
        }
    }

    fn blocks_written(path: &Path) -> u64 {
        let content = fs::read(path).unwrap();
        content.chunks(BLOCK_BYTES).filter(|block| block.iter().all(|&byte| byte == 0x5a)).count() as u64
    }

    #[test]
    fn what_a_replica_met_is_told() {
        let mut replicas = Replicas::start(&here(), 200, 1).unwrap();
        let (client, served) = connection().unwrap();
        drop(replicas.server.replace(client));
        replicas.spawn(move || answer_each(served, 200, || Err(io::ErrorKind::StorageFull.into())));
        assert_eq!(replicas.request().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
