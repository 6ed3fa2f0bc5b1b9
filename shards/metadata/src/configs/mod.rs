//! The catalogue of configurations: what exists, what it accepts, and what it means by default.
//!
//! The rule for every entry: a configuration that has a meaning in this broker works; one whose
//! default describes what the broker does may be set to that value only; everything else is refused
//! by name, with a sentence that says why.

mod broker;
mod describe;
mod resolve;
mod throttle;
mod topic;

pub use broker::{BROKER_CONFIGS, BROKER_DRAINING};
pub use describe::{ConfigEntry, ConfigSource, ConfigSynonym, describe_broker, describe_topic};
pub use resolve::{BrokerDefaults, CleanupPolicy, StaticSettings, TimestampType, TopicConfig};
pub use throttle::{ReplicationRates, ThrottledReplicas};
pub use topic::TOPIC_CONFIGS;

pub(crate) use broker::{Scope, scope};
pub(crate) use resolve::{BrokerLayers, effective_topic_value};

use types::limits::THROTTLED_REPLICAS_BYTES_MAX;

use crate::error::MetadataError;

/// The largest record batch that any topic may accept, in bytes.
pub const MESSAGE_BYTES_MAX: i64 = 16 * 1024 * 1024;

/// The type of a configuration's value, with the number that DescribeConfigs gives it (KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigType {
    /// `true` or `false`.
    Boolean = 1,
    /// Text.
    String = 2,
    /// A 32-bit integer.
    Int = 3,
    /// A 64-bit integer.
    Long = 5,
    /// A floating-point number.
    Double = 6,
    /// Words separated by commas.
    List = 7,
}

/// One configuration.
#[derive(Debug)]
pub struct ConfigDefinition {
    /// Its name, as Kafka spells it.
    pub name: &'static str,
    /// The type of its value.
    pub kind: ConfigType,
    /// The value that holds when nobody sets one; `None` for a broker configuration that gives way
    /// to a coarser one, as `log.retention.ms` does to `log.retention.hours`.
    pub default: Option<&'static str>,
    /// What it may be set to.
    pub accepts: Accepts,
    /// For a topic configuration: the broker configurations that give its default, the first one
    /// set wins.
    pub synonyms: &'static [Synonym],
    /// What it does, for people.
    pub documentation: &'static str,
}

/// The values that a configuration accepts.
#[derive(Debug)]
pub enum Accepts {
    /// `true` and `false`.
    AnyBoolean,
    /// Integers within both bounds.
    Integer {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// Numbers from 0 to 1.
    Ratio,
    /// What [`ThrottledReplicas`] reads.
    ThrottledReplicas,
    /// Any of these words.
    OneOf(&'static [&'static str]),
    /// Only what the broker does anyway.
    Only {
        /// The accepted values; the first is the default.
        values: &'static [&'static str],
        /// Why no other value is accepted: a sentence without its subject.
        because: &'static str,
    },
}

/// A broker configuration that gives a topic configuration its default.
#[derive(Debug)]
pub struct Synonym {
    /// The broker configuration.
    pub name: &'static str,
    /// How many of the topic configuration's units one of its own is.
    pub unit: i64,
}

impl ConfigDefinition {
    /// Whether only the default can hold.
    pub fn is_fixed(&self) -> bool {
        matches!(self.accepts, Accepts::Only { values: [_], .. })
    }

    /// Checks a value from outside and gives it in its normal form (trimmed, as Kafka does).
    ///
    /// # Errors
    ///
    /// `InvalidConfig`, naming the configuration and what it accepts.
    pub fn validate(&self, value: &str) -> Result<String, MetadataError> {
        self.accept(value)
            .map_err(|reason| MetadataError::InvalidConfig { name: self.name.to_owned(), reason })
    }

    /// The normal form of a value that is stored or configured; `None` if this release cannot use it.
    /// More generous than [`ConfigDefinition::validate`] where the broker itself may set what clients may not.
    fn read(&self, value: &str) -> Option<String> {
        match self.accepts {
            Accepts::Only { .. } => normalise(self.kind, value).ok(),
            _ => self.accept(value).ok(),
        }
    }

    fn accept(&self, value: &str) -> Result<String, String> {
        let value = normalise(self.kind, value)?;
        match &self.accepts {
            Accepts::AnyBoolean => Ok(value),
            Accepts::Integer { min, max } => match value.parse::<i64>() {
                Ok(number) if (*min..=*max).contains(&number) => Ok(value),
                _ => Err(format!("{value} lies outside of {min} to {max}")),
            },
            Accepts::Ratio => match value.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(value),
                _ => Err(format!("{value} lies outside of 0 to 1")),
            },
            Accepts::ThrottledReplicas if value.len() > THROTTLED_REPLICAS_BYTES_MAX => {
                Err(format!("a list of more than {THROTTLED_REPLICAS_BYTES_MAX} bytes; * names all replicas"))
            }
            Accepts::ThrottledReplicas => match ThrottledReplicas::parse(&value) {
                Some(_) => Ok(value),
                None => Err(format!(
                    "{:?} is neither * nor a list of replicas as in partition:broker,partition:broker",
                    shortened(&value)
                )),
            },
            Accepts::OneOf(words) if words.contains(&value.as_str()) => Ok(value),
            Accepts::OneOf(words) => Err(format!("{:?} is none of {}", shortened(&value), words.join(", "))),
            Accepts::Only { values, .. } if values.contains(&value.as_str()) => Ok(value),
            Accepts::Only { values, because } => Err(format!(
                "{:?} is not supported: the broker {because}; it accepts only {:?}",
                shortened(&value),
                values.join(" or ")
            )),
        }
    }
}

/// The definition of a topic configuration.
pub fn topic_config(name: &str) -> Option<&'static ConfigDefinition> {
    TOPIC_CONFIGS.iter().find(|definition| definition.name == name)
}

/// The definition of a broker configuration that can be set at run time.
pub fn broker_config(name: &str) -> Option<&'static ConfigDefinition> {
    BROKER_CONFIGS.iter().find(|definition| definition.name == name)
}

fn normalise(kind: ConfigType, value: &str) -> Result<String, String> {
    let value = value.trim();
    let not_a = |what: &str| format!("{:?} is not {what}", shortened(value));
    match kind {
        ConfigType::Boolean if value.eq_ignore_ascii_case("true") => Ok("true".to_owned()),
        ConfigType::Boolean if value.eq_ignore_ascii_case("false") => Ok("false".to_owned()),
        ConfigType::Boolean => Err(not_a("a boolean")),
        ConfigType::Int => match value.parse::<i32>() {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err(not_a("a 32-bit integer")),
        },
        ConfigType::Long => match value.parse::<i64>() {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err(not_a("a 64-bit integer")),
        },
        ConfigType::Double => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number.to_string()),
            _ => Err(not_a("a number")),
        },
        ConfigType::String => Ok(value.to_owned()),
        ConfigType::List => Ok(value.split(',').map(str::trim).collect::<Vec<_>>().join(",")),
    }
}

/// A value from outside, short enough for an error message.
fn shortened(value: &str) -> String {
    const CHARS_MAX: usize = 100;
    let mut text: String = value.chars().take(CHARS_MAX).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn every_default_is_accepted_and_every_name_is_there_once() {
        for table in [TOPIC_CONFIGS, BROKER_CONFIGS] {
            let names: BTreeSet<_> = table.iter().map(|definition| definition.name).collect();
            assert_eq!(names.len(), table.len());
            for definition in table {
                assert!(!definition.documentation.is_empty(), "{}", definition.name);
                if let Some(default) = definition.default {
                    assert_eq!(definition.validate(default).as_deref(), Ok(default), "{}", definition.name);
                }
            }
        }
    }

    #[test]
    fn broker_synonyms_have_the_defaults_and_bounds_of_their_topic_configs() {
        for topic in TOPIC_CONFIGS {
            for synonym in topic.synonyms {
                let Some(broker) = broker_config(synonym.name) else { continue };
                if let Some(default) = broker.default {
                    let scaled = default.parse::<i64>().map_or(default.to_owned(), |number| {
                        if number < 0 { default.to_owned() } else { (number * synonym.unit).to_string() }
                    });
                    assert_eq!(Some(scaled.as_str()), topic.default, "{} and {}", topic.name, broker.name);
                }
                if let (Accepts::Integer { min, max }, 1) = (&broker.accepts, synonym.unit) {
                    let Accepts::Integer { min: topic_min, max: topic_max } = topic.accepts else {
                        panic!("{} accepts what {} does not", broker.name, topic.name);
                    };
                    assert!(*min >= topic_min && *max <= topic_max, "{}", broker.name);
                }
            }
        }
    }

    fn check(name: &str, value: &str, expected: Expect) {
        let outcome = match topic_config(name).expect("a known name").validate(value) {
            Ok(value) => format!("ok {value}"),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&outcome);
    }

    #[test]
    fn values_are_validated_and_normalised() {
        check("retention.ms", " 1000 ", expect!["ok 1000"]);
        check("retention.ms", "-1", expect!["ok -1"]);
        check(
            "retention.ms",
            "-2",
            expect!["configuration retention.ms: -2 lies outside of -1 to 9223372036854775807"],
        );
        check(
            "retention.ms",
            "a week",
            expect![[r#"configuration retention.ms: "a week" is not a 64-bit integer"#]],
        );
        check("retention.ms", "", expect![[r#"configuration retention.ms: "" is not a 64-bit integer"#]]);
        check("segment.bytes", "52428800", expect!["ok 52428800"]);
        check(
            "segment.bytes",
            "2147483648",
            expect![[r#"configuration segment.bytes: "2147483648" is not a 32-bit integer"#]],
        );
        check("max.message.bytes", "16777216", expect!["ok 16777216"]);
        check(
            "max.message.bytes",
            "16777217",
            expect!["configuration max.message.bytes: 16777217 lies outside of 1 to 16777216"],
        );
        check(
            "min.insync.replicas",
            "0",
            expect!["configuration min.insync.replicas: 0 lies outside of 1 to 2147483647"],
        );
        check("message.timestamp.type", "LogAppendTime", expect!["ok LogAppendTime"]);
        check(
            "message.timestamp.type",
            "now",
            expect![[r#"configuration message.timestamp.type: "now" is none of CreateTime, LogAppendTime"#]],
        );
        check("min.cleanable.dirty.ratio", "0.25", expect!["ok 0.25"]);
        check(
            "min.cleanable.dirty.ratio",
            "NaN",
            expect![[r#"configuration min.cleanable.dirty.ratio: "NaN" is not a number"#]],
        );
        check(
            "min.cleanable.dirty.ratio",
            "1.5",
            expect!["configuration min.cleanable.dirty.ratio: 1.5 lies outside of 0 to 1"],
        );
        check("cleanup.policy", " delete ", expect!["ok delete"]);
        check(
            "cleanup.policy",
            "compact",
            expect![[
                r#"configuration cleanup.policy: "compact" is not supported: the broker does not compact the logs of clients' topics; it accepts only "delete""#
            ]],
        );
        check(
            "cleanup.policy",
            "compact, delete",
            expect![[
                r#"configuration cleanup.policy: "compact,delete" is not supported: the broker does not compact the logs of clients' topics; it accepts only "delete""#
            ]],
        );
        check("compression.type", "producer", expect!["ok producer"]);
        check(
            "compression.type",
            "zstd",
            expect![[
                r#"configuration compression.type: "zstd" is not supported: the broker stores batches as the producer compressed them; it accepts only "producer""#
            ]],
        );
        check("unclean.leader.election.enable", "FALSE", expect!["ok false"]);
        check(
            "unclean.leader.election.enable",
            "true",
            expect![[
                r#"configuration unclean.leader.election.enable: "true" is not supported: the broker never elects a leader that lacks acknowledged records; it accepts only "false""#
            ]],
        );
        check("flush.messages", "1", expect!["ok 1"]);
        check(
            "flush.messages",
            "1000",
            expect![[
                r#"configuration flush.messages: "1000" is not supported: the broker makes every record durable before it acknowledges it; it accepts only "9223372036854775807 or 1""#
            ]],
        );
        check("segment.index.bytes", "52428800", expect!["ok 52428800"]);
    }

    #[test]
    fn long_values_do_not_come_back_whole() {
        let error = topic_config("retention.ms").expect("a known name").validate(&"9".repeat(1 << 20));
        assert!(error.expect_err("too large").to_string().len() < 300);
    }
}
