//! Errors of this crate.

use thiserror::Error;

/// Why a record of `__consumer_offsets` could not be replayed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// A record type that this version does not know (KIP-848 groups and later ones). As in Kafka
    /// after a downgrade, it may be skipped.
    #[error("unknown coordinator record type {0}")]
    UnknownRecordType(i16),
    /// A value version that is newer than the schemas this version knows.
    #[error("unknown version {version} of a {schema} record")]
    UnknownValueVersion {
        /// The name of Kafka's schema.
        schema: &'static str,
        /// The version found.
        version: i16,
    },
    /// The bytes do not follow the schema.
    #[error("malformed {schema} record: {reason}")]
    Malformed {
        /// The name of Kafka's schema.
        schema: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}
