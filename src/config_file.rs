//! The configuration file: TOML with the names of the options, and a table of broker settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit::Error;
use crate::peers::PeerEntry;

/// The largest configuration file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What a configuration file may say. Its names are those of the options without their dashes in front.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigFile {
    pub kafka_port: Option<u16>,
    pub bind_addr: Option<String>,
    pub advertised_addr: Option<String>,
    pub advertised_port: Option<u16>,
    pub node_id: Option<i32>,
    pub data_dir: Option<PathBuf>,
    pub metrics_port: Option<u16>,
    pub metrics_addr: Option<String>,
    pub shards: Option<u16>,
    pub cpus: Option<String>,
    pub no_pin: Option<bool>,
    pub busy_poll_us: Option<u32>,
    pub log_level: Option<String>,
    pub log_format: Option<String>,
    pub bootstrap_server: Option<String>,
    pub raft_addr: Option<String>,
    /// `"id@host:port"`, or tables `[[peers]]`.
    pub peers: Option<Vec<PeerEntry>>,
    pub bootstrap: Option<bool>,
    pub join: Option<bool>,
    /// Broker settings by Kafka's names, which may be quoted or written as dotted keys.
    #[serde(default)]
    pub settings: toml::Table,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] that names the file, and the line where its content is at fault.
    pub fn read(path: &Path) -> Result<ConfigFile, Error> {
        let unreadable = |why: String| {
            Error::Usage(format!("cannot read the configuration file {}: {why}", path.display()))
        };
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err(unreadable(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        ConfigFile::parse(&text)
            .map_err(|why| Error::Usage(format!("the configuration file {} is wrong: {why}", path.display())))
    }

    fn parse(text: &str) -> Result<ConfigFile, String> {
        toml::from_str(text).map_err(|error| {
            let message = error.message().trim().replace('\n', " ");
            match error.span() {
                Some(span) => {
                    let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
                    format!("line {line}: {message}")
                }
                None => message,
            }
        })
    }

    /// The settings by Kafka's names, in the text that `--set` would take.
    ///
    /// # Errors
    ///
    /// What is neither text, number nor boolean, in words.
    pub fn settings(&self) -> Result<BTreeMap<String, String>, String> {
        let mut settings = BTreeMap::new();
        flatten(&self.settings, "", &mut settings)?;
        Ok(settings)
    }
}

/// TOML reads `num.partitions = 3` as a table `num` with a key `partitions`.
fn flatten(table: &toml::Table, prefix: &str, settings: &mut BTreeMap<String, String>) -> Result<(), String> {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        let text = match value {
            toml::Value::Table(inner) => {
                flatten(inner, &format!("{name}."), settings)?;
                continue;
            }
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Datetime(_) | toml::Value::Array(_) => {
                return Err(format!("setting {name} must be text, a number, true or false"));
            }
        };
        if settings.insert(name.clone(), text).is_some() {
            return Err(format!("setting {name} is there twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check_settings(text: &str, expected: Expect) {
        let outcome = ConfigFile::parse(text).and_then(|file| file.settings());
        expected.assert_eq(&format!("{outcome:?}"));
    }

    #[test]
    fn settings_may_be_quoted_or_dotted() {
        check_settings(
            "[settings]\n\"num.partitions\" = 3\nlog.segment.bytes = 1048576\nbroker.rack = 'a'\n\
             auto.create.topics.enable = false",
            expect![[
                r#"Ok({"auto.create.topics.enable": "false", "broker.rack": "a", "log.segment.bytes": "1048576", "num.partitions": "3"})"#
            ]],
        );
        check_settings(
            "[settings]\n\"num.partitions\" = 3\nnum.partitions = 4",
            expect![[r#"Err("setting num.partitions is there twice")"#]],
        );
        check_settings(
            "[settings]\nbroker.rack = ['a']",
            expect![[r#"Err("setting broker.rack must be text, a number, true or false")"#]],
        );
    }

    fn check_error(text: &str, expected: Expect) {
        expected.assert_eq(&ConfigFile::parse(text).expect_err("refused"));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        check_error(
            "kafka-port = 1\nkafka-prt = 2",
            expect![
                "line 2: unknown field `kafka-prt`, expected one of `kafka-port`, `bind-addr`, `advertised-addr`, `advertised-port`, `node-id`, `data-dir`, `metrics-port`, `metrics-addr`, `shards`, `cpus`, `no-pin`, `busy-poll-us`, `log-level`, `log-format`, `bootstrap-server`, `raft-addr`, `peers`, `bootstrap`, `join`, `settings`"
            ],
        );
        check_error("kafka-port = '9092'", expect![[r#"line 1: invalid type: string "9092", expected u16"#]]);
        check_error("kafka-port = 70000", expect!["line 1: invalid value: integer `70000`, expected u16"]);
        check_error(
            "kafka-port = ",
            expect!["line 1: string values must be quoted, expected literal string"],
        );
    }
}
