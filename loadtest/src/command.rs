//! Programs of the system that a run needs.

use std::{ffi::OsStr, process::Command};

use crate::error::LoadtestError;

/// Whether a program is there.
pub fn is_there(program: &str, version_option: &str) -> bool {
    Command::new(program).arg(version_option).output().is_ok_and(|output| output.status.success())
}

/// Runs a program to its end and turns its complaint into an error. Returns what it printed.
///
/// # Errors
///
/// [`LoadtestError::Command`].
pub fn run<Argument: AsRef<OsStr>>(program: &str, arguments: &[Argument]) -> Result<String, LoadtestError> {
    let mut command = Command::new(program);
    let message = match command.args(arguments).output() {
        Ok(output) if output.status.success() => {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(LoadtestError::Command { command: format!("{command:?}"), message })
}
