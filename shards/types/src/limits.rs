//! The bounds of the broker that are no configuration options and that its memory, its disks or several of its parts depend on,
//! each with its reason. Those that concern one module alone stand there.

/// A bound, and what it is in the simulator, which could not fill so much within seconds.
const fn tight(bound: usize, tight: usize) -> usize {
    if cfg!(feature = "tight-limits") { tight } else { bound }
}

/// The alignment and smallest unit of a WAL write. Devices report 512 bytes, but 4 KiB is what file
/// systems allocate and what a torn write is measured in.
pub const BLOCK_BYTES: usize = 4096;

/// The largest single disk request: larger ones are split by the block layer and stall their neighbours.
pub const DISK_REQUEST_BYTES_MAX: usize = tight(512 * 1024, 64 * 1024);

/// The size of one WAL file. Zeroed once, then overwritten for as long as the shard lives.
pub const WAL_FILE_BYTES: u64 = tight(32 * 1024 * 1024, 1024 * 1024) as u64;

/// WAL files of one shard, in use and spare. Produce waits (or fails when the disk is full) once all are in use.
pub const WAL_FILES_MAX: usize = 16;

/// Bytes gathered for one WAL flush. More stays queued for the next one.
pub const WAL_FLUSH_BYTES_MAX: usize = tight(4 * 1024 * 1024, 128 * 1024);

/// Bytes of one group's entries that are written again at once, so that the file with the first of them is free. They find
/// room at any time, and a WAL that has its first file only has room for data beside them.
pub const WAL_REWRITE_BYTES_MAX: u64 = (BATCH_BYTES_MAX + WAL_FLUSH_BYTES_MAX) as u64;

/// The largest record batch, whoever makes it: the upper end of `max.message.bytes`, and the bound of what a coordinator or
/// a change of the metadata may write at once.
pub const BATCH_BYTES_MAX: usize = tight(16 * 1024 * 1024, 512 * 1024);

/// Bytes of batches that wait for room in the WAL, per shard. More are refused, but for those that waited for their leaders
/// before.
pub const STALLED_BYTES_MAX: usize = tight(64 * 1024 * 1024, 2 * 1024 * 1024);

/// Requests that wait, per shard, for their leader to take them. More are refused.
pub const LEADER_WAITS_MAX: usize = 10_000;

/// Bytes of batches among them.
pub const LEADER_WAITS_BYTES_MAX: usize = tight(64 * 1024 * 1024, 1024 * 1024);

/// Those of one group, so that one that does not commit leaves room to the others; a batch alone is always within it.
pub const LEADER_WAITS_BYTES_OF_GROUP_MAX: usize = tight(16 * 1024 * 1024, 384 * 1024);

/// How long they wait at most while nothing is committed. A leader begins to serve one commit after its election, and steps
/// down within an election time-out if it hears of no majority; this is longer.
pub const LEADER_WAIT_MS_MAX: i64 = 1_500;

/// Committed bytes of one partition that wait in memory and WAL before they are written to its segment.
pub const SEGMENT_CHUNK_BYTES: usize = tight(1024 * 1024, 32 * 1024);

/// The smallest size at which a segment may be closed (`segment.bytes`, KIP-1030).
pub const SEGMENT_BYTES_MIN: usize = tight(1024 * 1024, 64 * 1024);

/// Bytes of records after which the log of a partition of `__consumer_offsets` is begun anew with a snapshot, if that is
/// much smaller.
pub const COORDINATOR_SNAPSHOT_BYTES: usize = tight(8 * 1024 * 1024, 64 * 1024);

/// Applied bytes of commands after which the state of the metadata is written as a checkpoint and the log before it goes.
pub const METADATA_CHECKPOINT_BYTES: usize = tight(256 * 1024, 256);

/// The largest write to a segment: what a busy partition gathered while its last write was under way goes in one, so
/// that it keeps up with the WAL.
pub const SEGMENT_WRITE_BYTES_MAX: usize = tight(16 * 1024 * 1024, 256 * 1024);

/// Batches kept in memory for readers near the end of the log, per shard, after they are in a segment.
pub const TAIL_CACHE_BYTES_MAX: usize = tight(64 * 1024 * 1024, 128 * 1024);

/// Bytes between two entries of a segment's offset index (Kafka's `index.interval.bytes`).
pub const INDEX_INTERVAL_BYTES: usize = 4096;

/// Producers whose sequence numbers a partition remembers. Beyond it the one idle longest is forgotten;
/// its next batch is then accepted at any sequence, as Kafka does after `producer.id.expiration.ms`.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 8_192;

/// Batches per producer that a retry is recognised by (Kafka's `NUM_BATCHES_TO_RETAIN`; clients keep
/// at most five in flight).
pub const PRODUCER_BATCHES_MAX: usize = 5;

/// The longest list of throttled replicas of a topic, in bytes: every node has all configurations in memory and in snapshots.
pub const THROTTLED_REPLICAS_BYTES_MAX: usize = 256 * 1024;

/// Producers of a partition whose first batch was refused for the time being, and is awaited.
pub const REFUSED_PRODUCERS_MAX: usize = 64;

/// Requests of one connection that are under way at once. Clients send at most five; the rest waits in the socket.
pub const REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX: usize = 32;

/// Response bytes of one connection that wait for the socket before its requests are left unread.
pub const RESPONSE_BYTES_QUEUED_PER_CONNECTION_MAX: usize = 16 * 1024 * 1024;

/// Request bytes under way in one shard, over all its connections, before all of them wait.
pub const REQUEST_BYTES_IN_FLIGHT_PER_SHARD_MAX: usize = tight(128 * 1024 * 1024, 4 * 1024 * 1024);

/// Client connections of one shard; fewer where the process may not open so many files. The next one is closed at once.
pub const CONNECTIONS_PER_SHARD_MAX: usize = 10_000;

/// Messages in one ring between two shards.
pub const RING_MESSAGES_MAX: usize = 1024;

/// The body of one frame between two nodes. The largest batch fits with its message, behind others that were gathered.
pub const PEER_FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX + 8 * 1024 * 1024;

/// Messages to one node are gathered into a frame until it has so many bytes.
pub const PEER_FRAME_BYTES_FULL: usize = tight(2 * 1024 * 1024, 64 * 1024);

/// Bytes for one node that wait for its socket, per shard. Beyond it entries are not sent until it catches up.
pub const PEER_BYTES_QUEUED_MAX: usize = tight(64 * 1024 * 1024, 2 * 1024 * 1024);

/// Bytes of one append message between two replicas. An entry that is larger goes alone.
pub const APPEND_BYTES_MAX: usize = tight(1024 * 1024, 64 * 1024);

/// Bytes that a replica far behind pulls at once.
pub const PULL_BYTES: usize = tight(1024 * 1024, 32 * 1024);

/// Replicas of one shard that pull at the same time, so that those that return do not keep the disk from live traffic. As many
/// again may be throttled by an administrator, who bounds their bytes.
pub const PULLS_PER_SHARD_MAX: usize = tight(8, 2);

/// Response bytes of one Fetch, whatever the client asks for (Kafka's `fetch.max.bytes`).
pub const FETCH_BYTES_MAX: usize = tight(55 * 1024 * 1024, 1024 * 1024);

/// Response bytes that wait for sockets, and those that fetches under way may bring, over all connections of one shard.
/// Over it a fetch is given less, or waits. (One batch goes to a fetch in any case, so it is exceeded by what the batches
/// of fetches under way are larger than their shares.)
pub const RESPONSE_BYTES_PER_SHARD_MAX: usize = tight(256 * 1024 * 1024, 4 * 1024 * 1024);

/// The least that a fetch is let read while memory is short (Kafka's `max.partition.fetch.bytes`); with less it waits.
pub const FETCH_SHARE_BYTES_MIN: usize = tight(1024 * 1024, 64 * 1024);

/// Bytes of segments that one shard has disks read at once for its fetches. Further reads wait.
pub const READ_BYTES_UNDER_WAY_MAX: usize = tight(64 * 1024 * 1024, 1024 * 1024);

/// Partitions that one shard reads from the disk for one fetch. Those behind them give nothing this time, as when
/// `max_bytes` is used up.
pub const READS_PER_FETCH_MAX: usize = tight(128, 2);

/// Incremental fetch sessions of one shard (Kafka's `max.incremental.fetch.session.cache.slots`).
pub const FETCH_SESSIONS_PER_SHARD_MAX: usize = 1_000;

/// Partitions of all fetch sessions of one shard; a larger session is not remembered, and the client sends it whole.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 200_000;

/// The largest result of one decompression, whatever the batch claims.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Partitions of the cluster.
pub const PARTITIONS_MAX: usize = 200_000;

/// Bytes of the metadata as a snapshot beyond which more topics, partitions and configurations are refused. It goes to a node
/// far behind in one frame, in which what moves or is registered still fits.
pub const METADATA_BYTES_MAX: usize = PEER_FRAME_BYTES_MAX / 4 * 3;

/// Bytes of the metadata as a snapshot beyond which no more replicas are sent elsewhere: higher, so that nodes can be emptied in
/// a cluster that takes no more topics. What is registered still fits beside it, in a frame and in the reserve of a WAL.
pub const METADATA_MOVING_BYTES_MAX: usize = METADATA_BYTES_MAX + 1024 * 1024;

/// How long a change of the metadata may keep its client waiting, whatever it asks for. What waits is remembered until then,
/// though the client may be gone, and no client asks for more by itself (Kafka's `default.api.timeout.ms` is a minute).
pub const CHANGE_WAIT_MS_MAX: i64 = 300_000;

/// Characters of a topic name (Kafka's `Topic.MAX_NAME_LENGTH`).
pub const TOPIC_NAME_CHARS_MAX: usize = 249;

const _: () = assert!(DISK_REQUEST_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(WAL_FILE_BYTES.is_multiple_of(DISK_REQUEST_BYTES_MAX as u64));
const _: () = assert!(WAL_FILE_BYTES >= 2 * WAL_FLUSH_BYTES_MAX as u64);
const _: () = assert!(WAL_FLUSH_BYTES_MAX >= SEGMENT_CHUNK_BYTES);
const _: () = assert!(SEGMENT_WRITE_BYTES_MAX >= SEGMENT_CHUNK_BYTES);
const _: () = assert!(RESPONSE_BYTES_PER_SHARD_MAX >= 2 * FETCH_BYTES_MAX);
const _: () = assert!(READ_BYTES_UNDER_WAY_MAX >= FETCH_BYTES_MAX);
const _: () = assert!(METADATA_MOVING_BYTES_MAX < PEER_FRAME_BYTES_MAX);
// The simulator's WAL is small, and its metadata far smaller.
const _: () =
    assert!(cfg!(feature = "tight-limits") || (METADATA_MOVING_BYTES_MAX as u64) < WAL_REWRITE_BYTES_MAX);
