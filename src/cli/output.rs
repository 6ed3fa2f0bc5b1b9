//! What commands print. Whoever reads it may have closed the pipe meanwhile, as `head` does: that is an end, no error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use crate::exit::Error;

/// Prints text on standard output as it is.
///
/// # Errors
///
/// As [`outcome`].
pub fn print(text: impl Display) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    outcome(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Tells a line on standard error, if anybody reads it.
pub fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What a write to standard output means for the command.
///
/// # Errors
///
/// [`Error::File`] unless it was written, or nobody reads any more.
pub fn outcome(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(Error::File { operation: "write", path: "standard output".into(), source })
        }
        _ => Ok(()),
    }
}
