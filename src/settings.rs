//! Broker settings by Kafka's names: which there are, and what this process takes from them.

use std::collections::BTreeMap;

use metadata::StaticSettings;
use metadata::configs::{BROKER_CONFIGS, BROKER_DRAINING, TOPIC_CONFIGS};

/// A setting that only the start of the process can give. The others are in the catalogue of the metadata crate.
#[derive(Clone, Copy, Debug)]
pub struct SettingDefinition {
    /// Kafka's name.
    pub name: &'static str,
    /// The value that holds unless it is set; Kafka's, but for those that say otherwise.
    pub default: &'static str,
    /// The values allowed.
    pub allowed: Allowed,
}

/// The values that a setting may have.
#[derive(Clone, Copy, Debug)]
pub enum Allowed {
    /// Any text.
    Text,
    /// Whole numbers between these, both included.
    Range(i64, i64),
    /// One of these.
    OneOf(&'static [&'static str]),
}

const INT_MAX: i64 = i32::MAX as i64;
const YEAR_MS: i64 = 366 * 24 * 3_600_000;

const fn integer(name: &'static str, default: &'static str, min: i64, max: i64) -> SettingDefinition {
    SettingDefinition { name, default, allowed: Allowed::Range(min, max) }
}

const FLAG: Allowed = Allowed::OneOf(&["true", "false"]);

/// Kafka's name of the selector that lets clients read from replicas in their rack (KIP-392).
pub const RACK_AWARE_SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// Settings of the process, in alphabetic order.
pub const SETTINGS: &[SettingDefinition] = &[
    SettingDefinition { name: "auto.leader.rebalance.enable", default: "true", allowed: FLAG },
    // Chronik's own.
    SettingDefinition { name: "auto.replica.rebalance.enable", default: "true", allowed: FLAG },
    SettingDefinition { name: "broker.rack", default: "", allowed: Allowed::Text },
    integer("connections.max.idle.ms", "600000", 1_000, YEAR_MS),
    integer("group.initial.rebalance.delay.ms", "3000", 0, 600_000),
    integer("group.max.session.timeout.ms", "1800000", 1, INT_MAX),
    integer("group.max.size", "10000", 1, 100_000),
    integer("group.min.session.timeout.ms", "6000", 1, INT_MAX),
    // Kafka's is 300: there the look is dear.
    integer("leader.imbalance.check.interval.seconds", "30", 1, 86_400),
    integer("log.retention.check.interval.ms", "300000", 1, YEAR_MS),
    integer("offset.metadata.max.bytes", "4096", 0, 1_048_576),
    integer("offsets.retention.check.interval.ms", "600000", 1, YEAR_MS),
    integer("offsets.retention.minutes", "10080", 1, INT_MAX),
    integer("offsets.topic.num.partitions", "50", 1, 1_000),
    integer("offsets.topic.replication.factor", "3", 1, i16::MAX as i64),
    integer("producer.id.expiration.ms", "86400000", 1, INT_MAX),
    integer("replica.lag.time.max.ms", "30000", 1, INT_MAX),
    // Chronik's own: Kafka bounds moves only where an administrator throttles them.
    integer("replica.move.bytes.per.second.max", "104857600", 1_048_576, 1 << 40),
    SettingDefinition {
        name: "replica.selector.class",
        default: "",
        allowed: Allowed::OneOf(&["", RACK_AWARE_SELECTOR]),
    },
    integer("socket.request.max.bytes", "104857600", 65_536, INT_MAX),
];

/// Kafka's names for what the command line says, and the option to use instead.
const OPTIONS_INSTEAD: &[(&str, &str)] = &[
    ("advertised.listeners", "--advertised-addr and --advertised-port"),
    ("broker.id", "--node-id"),
    ("listeners", "--bind-addr and --kafka-port"),
    ("log.dir", "--data-dir"),
    ("log.dirs", "--data-dir"),
    ("node.id", "--node-id"),
];

/// The settings of this process, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    given: BTreeMap<String, String>,
}

impl Settings {
    /// Checks what was given.
    ///
    /// # Errors
    ///
    /// Names the first setting that does not exist or has an impossible value, and what it accepts.
    pub fn new(given: BTreeMap<String, String>) -> Result<Settings, String> {
        for (name, value) in &given {
            check(name, value)?;
        }
        StaticSettings::new(given.clone()).map_err(|error| error.to_string())?;
        let settings = Settings { given };
        let (min, max) = ("group.min.session.timeout.ms", "group.max.session.timeout.ms");
        if settings.number::<i64>(min) > settings.number::<i64>(max) {
            return Err(format!("setting {min} is above {max}"));
        }
        Ok(settings)
    }

    /// A setting of the process, as text.
    pub fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(value) => value.trim(),
            None => definition(name).expect("a setting of the process").default,
        }
    }

    /// A setting of the process that is a number. `T` has room for its range.
    pub fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        let number = self.text(name).parse::<i64>().ok();
        number
            .and_then(|number| T::try_from(number).ok())
            .expect("it was checked, and its type has room for it")
    }

    /// A setting of the process that is true or false.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// Whether somebody has given a setting, be it its default.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The broker's rack, if it is told one.
    pub fn rack(&self) -> Option<String> {
        Some(self.text("broker.rack")).filter(|rack| !rack.is_empty()).map(str::to_owned)
    }

    /// What the metadata state machine and DescribeConfigs are told: the settings that were given, the process's own
    /// with their defaults, and `process`, which are read from options.
    pub fn static_settings(&self, process: &[(&str, String)]) -> StaticSettings {
        let own = SETTINGS.iter().filter(|setting| !self.text(setting.name).is_empty());
        let own = own.map(|setting| (setting.name.to_owned(), self.text(setting.name).to_owned()));
        let given = self.given.iter().map(|(name, value)| (name.clone(), value.clone()));
        let process = process.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        StaticSettings::new(own.chain(given).chain(process)).expect("the settings were checked")
    }
}

fn definition(name: &str) -> Option<&'static SettingDefinition> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

fn check(name: &str, value: &str) -> Result<(), String> {
    if let Some((_, option)) = OPTIONS_INSTEAD.iter().find(|(kafka, _)| *kafka == name) {
        return Err(format!("setting {name} is given by {option}"));
    }
    // The node that is emptied is not the one that has to know: the metadata tell all.
    if name == BROKER_DRAINING {
        return Err(format!(
            "setting {name} is set while the broker runs: `chronik-server cluster drain` does it"
        ));
    }
    if let Some(SettingDefinition { allowed, .. }) = definition(name) {
        return match *allowed {
            Allowed::Text => Ok(()),
            Allowed::Range(min, max) => match value.trim().parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                _ => Err(format!("setting {name} = {value:?} is not a number from {min} to {max}")),
            },
            Allowed::OneOf(values) if values.contains(&value.trim()) => Ok(()),
            Allowed::OneOf(values) => Err(format!("setting {name} = {value:?} is not one of {values:?}")),
        };
    }
    let is_synonym =
        TOPIC_CONFIGS.iter().flat_map(|topic| topic.synonyms).any(|synonym| synonym.name == name);
    if is_synonym || BROKER_CONFIGS.iter().any(|broker| broker.name == name) {
        return Ok(());
    }
    let topic = TOPIC_CONFIGS.iter().find(|topic| topic.name == name);
    Err(match topic.and_then(|topic| topic.synonyms.first()) {
        Some(synonym) => {
            format!("setting {name} is a topic's: its default for all topics is {}", synonym.name)
        }
        None => format!("there is no setting {name}"),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn settings(given: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::new(given.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_allowed() {
        assert!(SETTINGS.is_sorted_by(|left, right| left.name < right.name));
        for setting in SETTINGS {
            check(setting.name, setting.default).expect("a default is allowed");
            assert!(BROKER_CONFIGS.iter().all(|broker| broker.name != setting.name), "{}", setting.name);
        }
    }

    #[test]
    fn given_settings_beat_defaults() {
        let default = settings(&[]).expect("valid");
        assert_eq!(default.number::<i32>("offsets.topic.num.partitions"), 50);
        assert_eq!(default.rack(), None);
        let given = [
            ("offsets.topic.num.partitions", " 3 "),
            ("broker.rack", "a"),
            ("auto.create.topics.enable", "False"),
        ];
        let given = settings(&given).expect("valid");
        assert_eq!(given.number::<i32>("offsets.topic.num.partitions"), 3);
        assert_eq!(given.rack().as_deref(), Some("a"));
        given.static_settings(&[("node.id", "1".to_owned())]);
    }

    fn check_refused(name: &str, value: &str, expected: Expect) {
        expected.assert_eq(&settings(&[(name, value)]).expect_err("refused"));
    }

    #[test]
    fn refusals_name_the_setting_and_what_it_accepts() {
        check_refused("num.partition", "1", expect!["there is no setting num.partition"]);
        check_refused(
            "num.partitions",
            "0",
            expect!["configuration num.partitions: 0 lies outside of 1 to 200000"],
        );
        check_refused(
            "retention.ms",
            "1",
            expect!["setting retention.ms is a topic's: its default for all topics is log.retention.ms"],
        );
        check_refused("node.id", "1", expect!["setting node.id is given by --node-id"]);
        check_refused(
            "broker.draining",
            "true",
            expect![
                "setting broker.draining is set while the broker runs: `chronik-server cluster drain` does it"
            ],
        );
        check_refused(
            "log.cleanup.policy",
            "compact",
            expect![[
                r#"configuration log.cleanup.policy: "compact" is not supported: the broker does not compact the logs of clients' topics; it accepts only "delete""#
            ]],
        );
        check_refused(
            "socket.request.max.bytes",
            "1",
            expect![[r#"setting socket.request.max.bytes = "1" is not a number from 65536 to 2147483647"#]],
        );
        check_refused(
            "group.min.session.timeout.ms",
            "soon",
            expect![[
                r#"setting group.min.session.timeout.ms = "soon" is not a number from 1 to 2147483647"#
            ]],
        );
        check_refused(
            "group.min.session.timeout.ms",
            "2000000",
            expect!["setting group.min.session.timeout.ms is above group.max.session.timeout.ms"],
        );
    }
}
