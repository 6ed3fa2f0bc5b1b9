//! Kafka's rules for topic names.

use types::limits::TOPIC_NAME_CHARS_MAX;

use crate::error::MetadataError;

/// The topic that holds committed group offsets.
pub const CONSUMER_OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The topic that holds the state of transactions.
pub const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";

/// Whether the topic is one of the broker's own, shown as internal to clients.
pub fn is_internal_topic(name: &str) -> bool {
    name == CONSUMER_OFFSETS_TOPIC || name == TRANSACTION_STATE_TOPIC
}

/// Checks a name the way Kafka does: 1 to 249 of `a-z A-Z 0-9 . _ -`, and neither `.` nor `..`.
///
/// # Errors
///
/// `InvalidTopicName`.
pub fn validate_topic_name(name: &str) -> Result<(), MetadataError> {
    let legal = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    let reason = if name.is_empty() {
        "it is empty"
    } else if name == "." || name == ".." {
        "it is '.' or '..'"
    } else if name.chars().count() > TOPIC_NAME_CHARS_MAX {
        "it is longer than 249 characters"
    } else if !name.chars().all(legal) {
        "it has a character other than ASCII letters, digits, '.', '_' and '-'"
    } else {
        return Ok(());
    };
    Err(MetadataError::InvalidTopicName { name: name.to_owned(), reason })
}

/// What two names that Kafka does not tell apart in metric names have in common; `None` for a name
/// that cannot collide.
pub(crate) fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = "a".repeat(249);
        let too_long = "a".repeat(250);
        for (name, valid) in [
            ("orders", true),
            ("a", true),
            ("A-z_0.9", true),
            ("...", true),
            ("__consumer_offsets", true),
            (longest.as_str(), true),
            (too_long.as_str(), false),
            ("", false),
            (".", false),
            ("..", false),
            ("a b", false),
            ("a/b", false),
            ("ümlaut", false),
            ("nul\0", false),
        ] {
            assert_eq!(validate_topic_name(name).is_ok(), valid, "{name:?}");
        }
    }

    #[test]
    fn dots_and_underscores_share_a_key() {
        assert_eq!(collision_key("a.b_c"), collision_key("a_b.c"));
        assert_ne!(collision_key("a.b"), collision_key("a.c"));
        assert_eq!(collision_key("a-b"), None);
    }
}
