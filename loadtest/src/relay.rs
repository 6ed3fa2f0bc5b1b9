//! Carries packets between the ends of a network, and treats them as badly as it is told to.
//!
//! Each end is a TUN device whose other side is here, so that one thread sees every packet. That needs no queueing
//! discipline, packet filter or kernel module.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::File,
    io::{self, Read, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// One end of the network: a node, or everything outside of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Where the clients are.
    Clients,
    /// A node, from 1.
    Node(u8),
}

const CLIENTS_NUMBER: u8 = 254;

impl End {
    /// The last byte of its address.
    pub fn number(self) -> u8 {
        match self {
            End::Clients => CLIENTS_NUMBER,
            End::Node(node) => node,
        }
    }
}

/// What becomes of packets on their way from one end to another. Shares are of 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Everything is lost.
    pub is_cut: bool,
    /// Share that is lost.
    pub lost: f64,
    /// Share that arrives twice.
    pub doubled: f64,
    /// Share with one changed bit, which TCP's checksum shows.
    pub flipped: f64,
    /// Share with two exchanged words of payload, which TCP's checksum does not show. Between nodes only: the Kafka
    /// protocol has no checksum of its own outside of batches.
    pub exchanged: f64,
    /// Each packet is late by a random time up to this, so that packets overtake each other.
    pub late: Duration,
    /// Each packet is late by this.
    pub delay: Duration,
}

type Links = BTreeMap<(u8, u8), Weather>;

/// No packet of ours is longer: the devices' MTU is 1,500.
const PACKET_BYTES_MAX: usize = 2_048;
const SOURCE_LAST_BYTE: usize = 15;
const TARGET_LAST_BYTE: usize = 19;
const IP_HEADER_BYTES: usize = 20;
const TCP_HEADER_BYTES_MIN: usize = 20;
/// Packets that are late at a time; over it they are lost.
const LATE_PACKETS_MAX: usize = 100_000;
/// Packets taken from one end before the others have their turn.
const BURST_PACKETS_MAX: usize = 64;
const IDLE_MS: u64 = 50;

/// The thread that carries, for as long as this lives.
#[derive(Debug)]
pub struct Relay {
    links: Arc<Mutex<Links>>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Carries between the given ends, which are non-blocking.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(ends: Vec<(End, File)>, seed: u64) -> io::Result<Relay> {
        let links = Arc::new(Mutex::new(Links::new()));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut carrier = Carrier {
            ends,
            links: Arc::clone(&links),
            chance: fastrand::Rng::with_seed(seed),
            late: BinaryHeap::new(),
            count: 0,
        };
        let stop = Arc::clone(&is_stopping);
        let thread = thread::Builder::new().name("relay".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                carrier.turn();
            }
        })?;
        Ok(Relay { links, is_stopping, thread: Some(thread) })
    }

    /// From now on.
    pub fn set(&self, from: End, to: End, weather: Weather) {
        assert!(from != to, "an end always reaches itself");
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert((from.number(), to.number()), weather);
    }

    /// Everything arrives again.
    pub fn heal(&self) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic without ending the process, see `cleanup`.
            let _ = thread.join();
        }
    }
}

struct Carrier {
    ends: Vec<(End, File)>,
    links: Arc<Mutex<Links>>,
    chance: fastrand::Rng,
    /// By the time at which they arrive, and in the order in which they were sent.
    late: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
}

impl Carrier {
    fn turn(&mut self) {
        let idle = Duration::from_millis(IDLE_MS);
        let wait = self
            .late
            .peek()
            .map_or(idle, |Reverse((due, ..))| due.saturating_duration_since(Instant::now()).min(idle));
        let timeout = Timespec::try_from(wait).expect("it is short");
        let mut fds: Vec<_> = self.ends.iter().map(|(_, file)| PollFd::new(file, PollFlags::IN)).collect();
        // Interrupted by a signal: the next turn polls again.
        let _ = poll(&mut fds, Some(&timeout));
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for index in (0..ready.len()).filter(|&index| ready[index]) {
            self.take_from(index);
        }
        self.deliver();
    }

    fn take_from(&mut self, index: usize) {
        let mut packet = [0; PACKET_BYTES_MAX];
        for _ in 0..BURST_PACKETS_MAX {
            // Nothing left, or a device that is being taken down.
            let Ok(length) = (&self.ends[index].1).read(&mut packet) else { return };
            if length < IP_HEADER_BYTES || packet[0] != 0x45 {
                continue; // not IPv4: nobody here speaks anything else
            }
            let link = (packet[SOURCE_LAST_BYTE], packet[TARGET_LAST_BYTE]);
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            let weather = links.get(&link).copied().unwrap_or_default();
            drop(links);
            for (delay, packet) in treat(&weather, &packet[..length], &mut self.chance) {
                if self.late.len() < LATE_PACKETS_MAX {
                    self.count += 1;
                    self.late.push(Reverse((Instant::now() + delay, self.count, packet)));
                }
            }
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.late.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, packet))) = self.late.pop() else { return };
            let target = packet[TARGET_LAST_BYTE];
            if let Some((_, file)) = self.ends.iter().find(|(end, _)| end.number() == target) {
                // A device that is down loses packets, as it would anywhere.
                let _ = (&*file).write(&packet);
            }
        }
    }
}

/// What arrives of a packet, and how late.
fn treat(weather: &Weather, packet: &[u8], chance: &mut fastrand::Rng) -> Vec<(Duration, Vec<u8>)> {
    if weather.is_cut || chance.f64() < weather.lost {
        return Vec::new();
    }
    let mut packet = packet.to_vec();
    if chance.f64() < weather.flipped && packet.len() > IP_HEADER_BYTES {
        let position = chance.usize(IP_HEADER_BYTES..packet.len());
        packet[position] ^= 1 << chance.u32(0..8);
    }
    if chance.f64() < weather.exchanged {
        exchange_words(&mut packet, chance);
    }
    let copies = if chance.f64() < weather.doubled { 2 } else { 1 };
    (0..copies).map(|_| (weather.delay + weather.late.mul_f64(chance.f64()), packet.clone())).collect()
}

/// Exchanges two words of the payload: their sum, and with it the checksum, stays.
fn exchange_words(packet: &mut [u8], chance: &mut fastrand::Rng) {
    let Some(segment) = packet.get_mut(IP_HEADER_BYTES..) else { return };
    if segment.len() < TCP_HEADER_BYTES_MIN {
        return;
    }
    let header = usize::from(segment[12] >> 4) * 4;
    let words = segment.len().saturating_sub(header) / 2;
    if words < 2 {
        return;
    }
    let mut word = || header + 2 * chance.usize(0..words);
    let (left, right) = (word(), word());
    segment.swap(left, right);
    segment.swap(left + 1, right + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with a TCP header of 20 bytes and 40 bytes of payload, all different.
    fn packet() -> Vec<u8> {
        let mut packet: Vec<u8> = (0..80).collect();
        packet[0] = 0x45;
        packet[IP_HEADER_BYTES + 12] = 5 << 4;
        packet
    }

    fn sum_of_words(packet: &[u8]) -> u32 {
        packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum()
    }

    fn treated(weather: Weather) -> Vec<(Duration, Vec<u8>)> {
        treat(&weather, &packet(), &mut fastrand::Rng::with_seed(1))
    }

    #[test]
    fn good_weather_changes_nothing() {
        assert_eq!(treated(Weather::default()), [(Duration::ZERO, packet())]);
    }

    #[test]
    fn packets_are_lost_doubled_and_late() {
        assert_eq!(treated(Weather { is_cut: true, ..Weather::default() }), []);
        assert_eq!(treated(Weather { lost: 1.0, ..Weather::default() }), []);
        assert_eq!(treated(Weather { doubled: 1.0, ..Weather::default() }).len(), 2);
        let delay = Duration::from_millis(30);
        let late = treated(Weather { delay, late: delay, doubled: 1.0, ..Weather::default() });
        assert!(late.iter().all(|(after, _)| (delay..2 * delay).contains(after)));
        assert_ne!(late[0].0, late[1].0);
    }

    #[test]
    fn a_flipped_bit_changes_the_checksum_and_exchanged_words_do_not() {
        let flipped = &treated(Weather { flipped: 1.0, ..Weather::default() })[0].1;
        assert_ne!(sum_of_words(flipped), sum_of_words(&packet()));
        assert_eq!(flipped[..IP_HEADER_BYTES], packet()[..IP_HEADER_BYTES]);
        let exchanged = &treated(Weather { exchanged: 1.0, ..Weather::default() })[0].1;
        assert_eq!(sum_of_words(exchanged), sum_of_words(&packet()));
        assert_ne!(*exchanged, packet());
        assert_eq!(exchanged[..IP_HEADER_BYTES + 20], packet()[..IP_HEADER_BYTES + 20]);
    }

    #[test]
    fn a_packet_without_payload_is_left() {
        let mut short = packet()[..IP_HEADER_BYTES + 20].to_vec();
        exchange_words(&mut short, &mut fastrand::Rng::with_seed(1));
        assert_eq!(short, packet()[..IP_HEADER_BYTES + 20]);
    }
}
