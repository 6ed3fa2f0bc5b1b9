//! Time as the pure crates see it: a reading that the driver hands in with each event.

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Microseconds of a monotonic clock since an arbitrary start. All deadlines are measured in it.
    pub mono_us: u64,
    /// Milliseconds since the Unix epoch, as Kafka timestamps are. It may jump.
    pub wall_ms: i64,
}

impl Now {
    /// The deadline that lies `ms` milliseconds ahead, on the monotonic clock, in microseconds.
    /// A negative duration counts as zero.
    pub fn after_ms(self, ms: i64) -> u64 {
        self.mono_us.saturating_add(u64::try_from(ms).unwrap_or(0).saturating_mul(1_000))
    }
}
